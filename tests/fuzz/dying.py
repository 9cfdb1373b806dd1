"""`python -m tests.fuzz.dying`: the same program, with a reader that ends the process at its fourth input."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from tests.fuzz.__main__ import main
from tests.fuzz.targets import table


def _broken(name: str) -> None:
    whole = table()[name]

    def parse(path: Path) -> object:
        note = path.parent.parent / "note"  # where the child writes how far it is
        if note.exists() and note.read_text() == f"{name} 3":
            os._exit(1)
        return whole.parse(path)

    table()[name] = dataclasses.replace(whole, parse=parse)


if __name__ == "__main__":
    _broken("idx")
    sys.exit(main())
