"""A page that stands alone: its style within it, pictures too, nothing fetched from anywhere."""

import base64
from html import escape
from pathlib import Path
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #d5dae1; --soft: #f3f5f8; --text: #17202b; --back: #fff; --mild: #5a6675; }
@media (prefers-color-scheme: dark) {
  :root { --line: #38424f; --soft: #1d252f; --text: #e7ecf2; --back: #12181f; --mild: #9fadbd; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p.about { margin: .25rem 0 1.5rem; color: var(--mild); }
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.card { padding: 1rem; border: 1px solid var(--line); border-radius: 8px; background: var(--soft); }
.card b { display: block; font-size: 1.9rem; line-height: 1.2; } .card span { color: var(--mild); font-size: .9rem; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .95rem; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .9em; } ul { padding-left: 1.2rem; }
figure { margin: 0 0 1.5rem; } figcaption { color: var(--mild); font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px;
  background: #fff; }
@media print { body { max-width: none; } figure, .card { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """Lay out a page.

    Args:
        title: Plain text, also its heading.
        body: HTML in which all that came from elsewhere is escaped.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def figure(path: Path, title: str) -> str:
    """Put a PNG into the page.

    Args:
        path: The picture.
        title: What it shows.
    """
    data, text = base64.b64encode(path.read_bytes()).decode(), escape(title)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
