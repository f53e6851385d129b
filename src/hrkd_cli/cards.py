"""Model and dataset cards (README.md), rendered from the Jinja2 templates in ``templates/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"


def render_card(template: str, metadata: Any, **variables: Any) -> str:
    """Return a card: YAML metadata (huggingface_hub's ``ModelCardData`` or ``DatasetCardData``), then Markdown."""
    from huggingface_hub import RepoCard

    card = RepoCard.from_template(metadata, template_path=str(_TEMPLATES / template), **variables)
    return str(card).strip() + "\n"


def code_span(text: str) -> str:
    """Return text as Markdown code, in which HTML has no effect."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def render_section(template: str, **variables: Any) -> str:
    """Return a section of a card, without metadata."""
    import jinja2

    text = jinja2.Template((_TEMPLATES / template).read_text(encoding="utf-8")).render(**variables)
    return str(text).strip() + "\n"
