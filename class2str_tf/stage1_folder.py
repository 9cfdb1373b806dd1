"""The run folder of stage 1, as the flags of a later training see it: where it is, what was trained in it."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from reproduction.runtime.flags import given
from reproduction.runtime.run_folder import UserError, read_json, shown
from reproduction.runtime.tf_runtime import newest_name

ARCHITECTURE = ("model", "F", "features", "lenet", "lenet_relu", "pixels")


def find_cnn(args: argparse.Namespace, original: str) -> Path:
    """Folder of stage 1: --cnn-dir, <runs-dir>/<name>, or the folder that the released script reads (C2S-D08)."""
    if args.cnn_dir:
        return Path(args.cnn_dir)
    ours = Path(args.runs_dir) / args.name
    for folder in (ours, Path(original), Path(args.runs_dir) / original):
        if any(folder.glob("model-*.index")):
            return folder
    return ours


def adopt_architecture(config: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    """Takes the architecture from the config.json of a run folder if it has one (C2S-D12).

    Raises:
      UserError: a flag on the command line contradicts it, or --hold-out would test on images of that training.
    """
    if not (folder / "config.json").exists():
        return
    trained = read_json(folder / "config.json", "")
    for key in ARCHITECTURE:
        if key in trained and trained[key] != config[key]:
            if given(args, key):
                raise UserError(f"--{key} {config[key]}: the run in {shown(folder)} was trained with {trained[key]}")
            config[key] = trained[key]
    if config["hold_out"] and trained.get("hold_out") != config["hold_out"]:
        raise UserError(f"--hold-out: the run in {shown(folder)} trained on these images; train it with --hold-out too")


def stage1_digest(folder: Path) -> str | None:
    """sha256 (16 hex digits) of the newest checkpoint's index, which holds the checksum of every tensor; or None."""
    prefix = newest_name(folder)
    index = prefix.with_name(prefix.name + ".index") if prefix else None
    return hashlib.sha256(index.read_bytes()).hexdigest()[:16] if index and index.exists() else None
