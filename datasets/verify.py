"""Checks whether a file is the one of the manifest: size first, then digest; one line says what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.core import DatasetError
from datasets.files import CHUNK, reading, write_json
from datasets.manifest import File

DIGESTS_FILE = "digests.json"


@dataclass(frozen=True)
class Checked:
    """Result of a check: the file's sha256, and whether the manifest's digest confirms it."""

    sha256: str
    verified: bool


def _digests(blocks: Iterable[bytes], file: File) -> dict[str, str]:
    """Hexadecimal digests by algorithm; md5, which takes longer than sha256, only if the manifest names it."""
    names = ("sha256", "md5") if file.digest.algorithm == "md5" else ("sha256",)
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    for block in blocks:
        for digest in hashes.values():
            digest.update(block)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def check_file(path: Path, file: File, accept_unverified: bool = False) -> Checked:
    """Checks a file on disk against the manifest, without holding it in memory.

    Args:
      path: the file.
      file: the manifest's entry of this file.
      accept_unverified: return `verified=False` instead of raising if size or digest differ.

    Raises:
      DatasetError: missing, unreadable, or another file than the manifest names.
    """
    try:
        size = path.stat().st_size
        if file.bytes is not None and size != file.bytes and not accept_unverified:
            raise _wrong(file, str(path), f"{size:,} bytes, expected {file.bytes:,}")
        with open(path, "rb") as stream:
            digests = _digests(iter(lambda: stream.read(CHUNK), b""), file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    return _judge(str(path), path.parent, file, size, digests, accept_unverified)


def check_bytes(raw: bytes, path: Path, file: File, accept_unverified: bool = False) -> Checked:
    """Does the same for bytes in memory; `path` is the file that they were read from."""
    what = str(path) if path.name == file.name else f"{path} (as {file.name})"
    return _judge(what, path.parent, file, len(raw), _digests([raw], file), accept_unverified)


def _wrong(file: File, what: str, reason: str) -> DatasetError:
    advice = "delete it to fetch it again" if file.urls else "replace it (see docs/data.md)"
    return DatasetError(f"{what}: {reason}; {advice}, or use it with --accept-unverified")


def _judge(what: str, folder: Path, file: File, size: int, digests: dict[str, str], accept: bool) -> Checked:
    digest, sha256 = file.digest, digests["sha256"]
    if digest.algorithm is None:
        return _first_seen(what, folder, file, sha256, accept)
    got = {**digests, "sha256-prefix": sha256[: len(digest.value or "")]}[digest.algorithm]
    right_size = file.bytes is None or size == file.bytes
    if right_size and got == digest.value:
        return Checked(sha256, True)
    if accept:
        print(f"{what}: {digest.algorithm} {got} differs from the manifest; used as unverified data", file=sys.stderr)
        return Checked(sha256, False)
    if not right_size:
        raise _wrong(file, what, f"{size:,} bytes, expected {file.bytes:,}")
    raise _wrong(file, what, f"{digest.algorithm} is {got}, expected {digest.value} ({digest.evidence})")


def _first_seen(what: str, folder: Path, file: File, sha256: str, accept: bool) -> Checked:
    """No digest is published: the first file seen is remembered and later ones must equal it."""
    digests_path = folder / DIGESTS_FILE
    known = {}
    if digests_path.is_file():
        with reading(digests_path):
            known = json.loads(digests_path.read_text(encoding="utf-8-sig"))
            if not isinstance(known, dict):
                raise DatasetError(f"{digests_path}: not a table of digests; delete it")
    if file.name not in known:
        print(f"{file.name}: sha256 {sha256} (no published digest is known; stored in {digests_path})", file=sys.stderr)
        # In a read-only folder the digest is printed only.
        with contextlib.suppress(OSError):
            write_json(digests_path, {**known, file.name: sha256})
    elif known[file.name] != sha256 and not accept:
        stored = f"{known[file.name]} was stored in {digests_path} at first (remove it there if this file is right)"
        raise _wrong(file, what, f"sha256 is {sha256}, but {stored}")
    return Checked(sha256, False)
