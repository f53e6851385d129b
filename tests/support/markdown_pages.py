"""Pages of the documentation: their links, anchors and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/hrkd-cli/hrkd-cli"
FOLDERS = ("docs", "runtime", "scripts", "tests", "src", "benchmarks", "examples", ".github")
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Code:
    """A code block: its language (empty if indented), text and the line where it starts."""

    language: str
    text: str
    line: int


def pages() -> list[str]:
    """Return all Markdown files of the checkout, by path; virtual environments in it have others."""
    found = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in found if "node_modules" not in path.parts)


def code_blocks(page: str) -> list[Code]:
    """Return the fenced and indented code of a page."""
    tokens = _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))
    return [Code(t.info.strip(), t.content, t.map[0] + 1) for t in tokens if t.type in ("fence", "code_block")]


def inline_code(page: str) -> list[str]:
    """Return the code within the sentences of a page."""
    tokens = _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))
    return [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]


def links(page: str) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    tokens = _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or ()]
    targets = [token.attrGet("href") or token.attrGet("src") for token in inline]
    html = "".join(token.content for token in [*tokens, *inline] if token.type in ("html_block", "html_inline"))
    return [*map(str, filter(None, targets)), *re.findall(r'(?:src|srcset|href)="([^"]+)"', html)]


def anchors(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them; those of equal headings are equal."""
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    found = []
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            found.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found
