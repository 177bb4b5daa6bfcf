// Runs before the page is drawn, so that a remembered theme does not flash.
{
  const kept = localStorage.getItem("framewatch-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
