"""The page's Jinja2 templates; everything that is no `Markup` is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reproduction.compare.verdicts import COLOURS

PAGE = Path(__file__).resolve().parent  # templates, style.css and script.js
NUMERIC = ("paper's number", "ours", "h", "value", "seeds", "baseline")
CODE = ("command", "sha256", "row")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.globals.update(colours=COLOURS, numeric=NUMERIC, code=CODE)
    return environment


def part(name: str, *values: Any, **named: Any) -> Markup:
    """Renders one macro of parts.html.j2.

    Args:
      name: of the macro.
      *values: its arguments.
      **named: its arguments by name.
    """
    return Markup(getattr(_environment().get_template("parts.html.j2").module, name)(*values, **named))


def whole_page(**values: Any) -> str:
    """Renders page.html.j2 with style and script inside."""
    style, script = (Markup((PAGE / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    return _environment().get_template("page.html.j2").render(style=style, script=script, **values) + "\n"
