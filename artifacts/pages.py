"""Pages of headings, paragraphs, tables and code, written as Markdown and as HTML; it knows nothing of contracts.

Text is Markdown of the simplest kind: `code` and [links](page#place). In HTML links lead to the pages in HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; what links lead to is its anchor."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that are copied out."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Items in their order, with numbers."""

    items: Sequence[str]


type Block = Heading | Paragraph | Table | Code | Listing


@dataclass(slots=True)
class Page:
    """A page; its name is the file's without an ending."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def markdown(page: Page) -> str:
    """The page as Markdown."""
    return "\n\n".join([f"# {page.title}", *(_in_markdown(block) for block in page.blocks)]) + "\n"


def html(page: Page, pages: Sequence[Page]) -> str:
    """The page as HTML that needs nothing beside it; the other pages are linked to at its top."""
    links = " · ".join(f'<a href="{other.name}.html">{escape(other.title)}</a>' for other in pages)
    blocks = "\n".join(_in_html(block) for block in page.blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(page.title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<nav>{links}</nav>\n<main>\n<h1>{escape(page.title)}</h1>\n"
        f"{blocks}\n</main>\n</body>\n</html>\n"
    )


def _in_markdown(block: Block) -> str:
    match block:
        case Heading():
            return f'<a id="{block.anchor}"></a>\n{"#" * block.level} {block.text}'
        case Paragraph():
            return re.sub(r"(\]\([a-z]+)(?=[#)])", r"\1.md", block.text)
        case Table():
            cells = [block.head, ["---"] * len(block.head), *block.rows]
            lines = [
                "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells
            ]
            return re.sub(r"(\]\([a-z]+)(?=[#)])", r"\1.md", "\n".join(lines))
        case Code():
            return f"```{block.language}\n{block.text}\n```"
        case Listing():
            return "\n".join(f"{number}. {item}" for number, item in enumerate(block.items, 1))


def _in_html(block: Block) -> str:
    match block:
        case Heading():
            return f'<h{block.level} id="{escape(block.anchor)}">{_inline(block.text)}</h{block.level}>'
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Table():
            head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
            rows = "".join(
                "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>\n" for row in block.rows
            )
            return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"
        case Code():
            return f"<pre><code>{escape(block.text)}</code></pre>"
        case Listing():
            return "<ol>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ol>"


def _inline(text: str) -> str:
    """Code and links; everything else is shown as it is written."""
    made = []
    for part in re.split(r"(`[^`]+`|\[[^\]]+\]\([a-z]*(?:#[^)]*)?\))", text):
        link = re.fullmatch(r"\[([^\]]+)\]\(([a-z]*)(#[^)]*)?\)", part)
        if link:
            page = f"{link[2]}.html" if link[2] else ""
            made.append(f'<a href="{page}{escape(link[3] or "")}">{_inline(link[1])}</a>')
        elif part.startswith("`") and part.endswith("`") and len(part) > 2:
            made.append(f"<code>{escape(part[1:-1])}</code>")
        else:
            made.append(escape(part))
    return "".join(made)


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1b1b1b;background:#fff}"
    "nav{padding:.6rem 1rem;background:#f2f4f7;border-bottom:1px solid #d5dae1;position:sticky;top:0}"
    "main{max-width:70rem;margin:0 auto;padding:1rem}"
    "h2{margin-top:2.5rem;border-top:1px solid #d5dae1;padding-top:1rem}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;vertical-align:top;"
    "padding:.3rem .5rem;border-bottom:1px solid #e3e7ed}code{font:14px ui-monospace,monospace;background:#f2f4f7;"
    "padding:.1rem .2rem}pre{background:#f2f4f7;padding:.8rem;overflow-x:auto}pre code{padding:0}a{color:#0b57a4}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}nav,code,pre{background:#22262c}"
    "nav,h2,th,td{border-color:#3a4048}a{color:#7db7f0}}"
)
