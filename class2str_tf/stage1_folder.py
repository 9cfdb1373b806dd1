"""Run folders, as the flags of a later command see them: where stage 1 is, and what was trained in a folder."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduction.runtime.flags import is_set
from reproduction.runtime.run_folder import REPO_ROOT, UserError, read_json, shown
from reproduction.runtime.tf_runtime import newest_name

ARCHITECTURE = ("model", "F", "features", "lenet", "lenet_relu", "pixels")
LH = ("finetune", "n_sequence", "lstm_units", "hidden", "codes", "seed")  # of stage 2; random codes depend on the seed


def find_cnn(args: argparse.Namespace, original: str) -> Path:
    """Folder of stage 1: --cnn-dir, <runs-dir>/<name>, or the folder that the released script reads (C2S-D08).

    For --eval without these flags: that of the checkpoint's run.
    """
    if args.cnn_dir:
        return Path(args.cnn_dir)
    trained = Path(args.eval or "").parent / "config.json"
    if args.eval and not is_set(args, "name") and trained.exists():
        return recorded_folder(read_json(trained, "cnn_dir")["cnn_dir"])
    ours = Path(args.runs_dir) / args.name
    for folder in (ours, Path(original), Path(args.runs_dir) / original):
        if any(folder.glob("model-*.index")):
            return folder
    return ours


def recorded_folder(path: str) -> Path:
    """A folder of config.json, which may be relative to where the run was started: here, or in the repository."""
    return Path(path) if Path(path).is_dir() else REPO_ROOT / path


def adopt_architecture(config: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    """Takes the architecture from the config.json of a run folder if it has one (C2S-D12).

    Raises:
      UserError: a flag on the command line contradicts it, or --hold-out would test on images of that training.
    """
    if not (folder / "config.json").exists():
        return
    trained = read_json(folder / "config.json", "")
    _adopt(config, args, folder, trained, ARCHITECTURE)
    part = ("hold_out", "train_images")
    if config["hold_out"] and any((trained.get(name) or 0) != (config[name] or 0) for name in part):
        raise UserError(
            f"--hold-out: the run in {shown(folder)} trained on some of these images; give both stages --hold-out and "
            "the same --train-images"
        )


def adopt_lh(config: dict[str, Any], args: argparse.Namespace) -> None:
    """Takes the LH classifier of the checkpoint --eval from the config.json next to it, if there is one.

    Raises:
      UserError: a flag contradicts it, or its stage 1 was trained again.
    """
    folder = Path(args.eval or "").parent
    if not args.eval or not (folder / "config.json").exists():
        return
    trained = read_json(folder / "config.json", "stage1")
    _adopt(config, args, folder, trained, LH)
    if config["stage1"] not in (trained["stage1"], None):
        raise UserError(
            f"--eval: the run in {shown(folder)} belongs to another stage 1 than {shown(config['cnn_dir'])}"
        )


def _adopt(
    config: dict[str, Any], args: argparse.Namespace, folder: Path, trained: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Takes the named values of a trained run; refuses flags on the command line that contradict them."""
    for key in names:
        if key in trained and trained[key] != config[key]:
            if is_set(args, key):
                raise UserError(f"--{key} {config[key]}: the run in {shown(folder)} was trained with {trained[key]}")
            config[key] = trained[key]


def stage1_digest(folder: Path) -> str | None:
    """sha256 (16 hex digits) of the newest checkpoint's index, which holds the checksum of every tensor; or None."""
    prefix = newest_name(folder)
    index = prefix.with_name(prefix.name + ".index") if prefix else None
    return hashlib.sha256(index.read_bytes()).hexdigest()[:16] if index and index.exists() else None
