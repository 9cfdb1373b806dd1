"""Class names that a picture has to show as they are, for the tests of every paper's plots."""

from __future__ import annotations

import pytest

NAMES = (
    "$\\frac$",
    "a$b$c",
    "_x^y",
    "100 %",
    "back\\slash",
    "\\$5 or $6",
    "{}{0}",
    "n" * 255,
    "\U0001f600 café",
    "<b>&amp;",
)


def refuse_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a text that matplotlib takes for mathematics an error, valid mathematics too."""
    from matplotlib.mathtext import MathTextParser

    def parse(self: MathTextParser, text: str, *_: object, **__: object) -> None:
        raise AssertionError(f"read as mathematics: {text}")

    monkeypatch.setattr(MathTextParser, "parse", parse)
