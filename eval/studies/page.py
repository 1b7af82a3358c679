"""The page of a study: one self-contained dark HTML file; measures and decides nothing.

The style is that of the report. Images stand inline, no script, nothing is loaded from the network.
"""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path
from typing import Any

import yaml

EXTRA = """<style>
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
td, th { text-align: right; } td.text, th.text { text-align: left; }
td.text { white-space: normal; }
td.text:first-child { color: var(--accent); }
table { min-width: 0; } td, th { padding-right: 1.2rem; }
.question { font-size: 1.1rem; max-width: 80ch; }
ul.remarks { max-width: 95ch; padding-left: 1.2rem; } ul.remarks li { margin: .35rem 0; }
ul.remarks li::marker { color: var(--accent); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(document: dict[str, Any], images: dict[str, bytes]) -> str:
    """The page as HTML.

    Args:
        document: What `findings.json` holds: `title`, `question`, `remarks`, `tables`, `figures`, `provenance`.
        images: PNG of each figure by its name.
    """
    provenance = document["provenance"]
    parts = [
        f'<header><h1>{escape(document["title"])}</h1><p class="question">{escape(document["question"])}</p></header>',
        "<main>",
    ]
    if document["remarks"]:
        items = "".join(f"<li>{escape(text)}</li>" for text in document["remarks"])
        parts.append(f'<h2>What was found</h2><ul class="remarks">{items}</ul>')
    if document["figures"]:
        parts.append("<h2>Figures</h2>")
        parts += [_figure(figure, images[figure["name"]]) for figure in document["figures"]]
    if document["tables"]:
        parts.append("<h2>Tables</h2>")
        parts += [_table(table) for table in document["tables"]]
    parts.append("<h2>Configuration and provenance</h2>")
    parts.append(f"<pre>{escape(yaml.safe_dump(provenance, sort_keys=False, width=110, allow_unicode=True))}</pre>")
    template = (Path(__file__).parents[1] / "report_template.html").read_text(encoding="utf-8")
    style = re.search(r"<style>.*?</style>", template, re.DOTALL)
    assert style is not None
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(document["title"])}</title>'
        f"{style.group()}{EXTRA}</head><body>{''.join(parts)}</main>"
        "<footer>Written by <code>foundation study</code>. The tables are beside this page as CSV, the figures as PNG, "
        "and everything in <code>findings.json</code>.</footer></body></html>\n"
    )


def _figure(figure: dict[str, str], png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    caption = escape(figure["caption"])
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def _table(table: dict[str, Any]) -> str:
    """Columns that hold any text are left-aligned."""
    text = [any(isinstance(row[k], str) for row in table["rows"]) for k in range(len(table["columns"]))]
    css = [' class="text"' if is_text else "" for is_text in text]
    head = "".join(f"<th{c}>{escape(name.replace('_', ' '))}</th>" for c, name in zip(css, table["columns"]))
    body = "".join(
        f"<tr>{''.join(f'<td{c}>{_cell(value)}</td>' for c, value in zip(css, row))}</tr>" for row in table["rows"]
    )
    return (
        f'<h3>{escape(table["name"].replace("_", " "))}</h3><p class="faint">{escape(table["caption"])}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}").replace("-", "−")
    return escape(str(value))
