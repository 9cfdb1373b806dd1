"""A place for the machine code that numba keeps: umap cannot be imported where numba finds none."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from reproduction.runtime.run_folder import UserError

_PACKAGES = ("umap", "pynndescent")  # their functions are compiled with cache=True


@functools.cache
def find_numba_cache() -> None:
    """Points NUMBA_CACHE_DIR at a temporary folder if numba would find no place; processes started later inherit it.

    numba looks in NUMBA_CACHE_DIR, in the packages' own folders and in the user's cache. None of them can be written
    to in a read-only environment without a usable HOME.

    Raises:
      UserError: no temporary folder either.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    if (named and _is_writable(Path(named))) or all(map(_is_writable, _own_folders())) or _is_writable(_user_cache()):
        return
    try:
        folder = tempfile.mkdtemp(prefix="numba-")
    except OSError as error:
        raise UserError(f"no place for numba's compiled code ({error}); set NUMBA_CACHE_DIR to a folder") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:  # it has read the variable already
        sys.modules["numba"].config.CACHE_DIR = folder


def _own_folders() -> list[Path]:
    found = [importlib.util.find_spec(name) for name in _PACKAGES]
    return [Path(spec.origin).parent / "__pycache__" for spec in found if spec is not None and spec.origin]


def _user_cache() -> Path:
    """As numba asks its copy of appdirs."""
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/numba"))
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there: numba's own test, which leaves an empty folder behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
