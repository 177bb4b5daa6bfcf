"""The documentation builds, its links lead somewhere, and it loads nothing from elsewhere."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.tools import tool

ROOT = Path(__file__).resolve().parents[2]
DOCS, CONFIG = ROOT / "docs", ROOT / "deploy" / "site" / "mkdocs.yml"
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/footage/README.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
OUTSIDE = re.compile(r"(https?:)?//")


def build(out, *, docs=DOCS, **changes):
    """Build the site as `make docs` does, from other pages or with settings changed."""
    config = out.with_name(f"{out.name}.yml")
    config.write_text(yaml.safe_dump({"INHERIT": str(CONFIG), "docs_dir": str(docs), "site_dir": str(out), **changes}))
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", config],
        capture_output=True, text=True, timeout=120, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    built = build(out)
    assert built.returncode == 0, built.stderr
    return out


class _Page(HTMLParser):
    """What a page loads by itself, and where it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if "id" in said:
            self.ids.add(said["id"])
        if tag == "link" and said.get("rel") in {"canonical", "next", "prev"}:
            return
        self.loads += [said[key] for key in ("src", "srcset", "data") if key in said]
        if tag == "link":
            self.loads.append(said["href"])


def loaded_from_elsewhere(site):
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 20
    return [(path.name, load) for path, page in pages.items() for load in page.loads if OUTSIDE.match(load)]


def dead_links(page, site):
    """Links of a page outside the site whose file or anchor is not there."""
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target, site)):
            yield link


def anchors(target, site):
    built = site / target.relative_to(DOCS).with_suffix(".html") if target.is_relative_to(DOCS) else None
    if built is not None:
        built = built.with_name("index.html") if built.name == "README.html" else built
        return _Page(built.read_text()).ids
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_that_lead_nowhere_and_pages_that_no_menu_names_end_the_build(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    planted = ["nowhere.md", "operations.md#nowhere", "#nowhere", "../README.md", "images/nowhere.png"]
    with (tmp_path / "docs" / "concepts.md").open("a") as page:
        page.write("".join(f"\n![x]({link})\n" if "images" in link else f"\n[x]({link})\n" for link in planted))
    (tmp_path / "docs" / "stray.md").write_text("# Stray\n")
    built = build(tmp_path / "site", docs=tmp_path / "docs")
    assert built.returncode == 1
    assert built.stderr.count("WARNING") == 6
    assert [said for said in (*planted, "stray.md") if said not in built.stderr] == []


@pytest.mark.parametrize("page", FRONT, ids=lambda page: page.name)
def test_links_from_outside_the_site_lead_somewhere(page, site):
    assert list(dead_links(page, site)) == []


def test_a_dead_link_from_outside_is_found(site, tmp_path):
    good = "(docs/operations.md#console) (docs/decisions/README.md) (#here) (https://x.example)"
    bad = ["docs/nowhere.md", "docs/operations.md#nowhere", "#nowhere"]
    (tmp_path / "docs").symlink_to(DOCS)
    page = tmp_path / "README.md"
    page.write_text(
        "# Here\n" + "".join(f"[x]{link} " for link in good.split()) + "".join(f"[x]({one}) " for one in bad)
    )
    assert list(dead_links(page, site)) == bad


def test_no_page_loads_anything_from_elsewhere(site):
    assert loaded_from_elsewhere(site) == []


def test_a_script_from_elsewhere_is_found(tmp_path):
    built = build(tmp_path / "site", extra_javascript=["https://cdn.example/x.js"])
    assert built.returncode == 0
    assert ("concepts.html", "https://cdn.example/x.js") in loaded_from_elsewhere(tmp_path / "site")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_its_search_finds_a_setting_and_asks_nobody_else(site):
    playwright_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = tool("chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = set()
    try:
        with playwright_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.on("request", lambda one: asked.add(one.url.split("/", 3)[2]))
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.keyboard.press("s")
            page.keyboard.type("stuck_seconds")
            page.locator(".md-search-result__link[href*='worker-settings']").first.wait_for()
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    assert asked == {f"127.0.0.1:{server.server_port}"}
