"""Files of a run folder with the authors' names: the log, and their names for checkpoints."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tqdm import tqdm


class LogFile:
    """`<log_filename>.txt`: appended, and echoed to stderr."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, line: str, bar: tqdm | None = None) -> None:
        """Adds a line; `bar` is a progress bar that it must not break."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            bar.write(line, file=sys.stderr)


def link_checkpoint(prefix: Path, name: Path) -> None:
    """Gives a checkpoint a second name (`model.ckpt`, `model.ckptbest`) without a second copy where links exist.

    Args:
      prefix: `.../model-<step>`.
      name: the other prefix in the same folder; what has it is replaced, the index last.
    """
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"), key=lambda path: path.name.endswith(".index"))
    for path in files:
        target = name.with_name(name.name + path.name.removeprefix(prefix.name))
        partial = target.with_name(f".{target.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
        os.replace(partial, target)
        partial.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
