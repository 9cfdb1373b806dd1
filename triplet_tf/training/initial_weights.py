"""Where a fresh run's ImageNet weights come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import weights
from reproduction.runtime.run_folder import UserError, shown
from triplet_tf.nets import TABLE

FILE = "initial_weights.json"  # in the run folder: digests of what a fresh run started from


def checkpoint_path(config: Mapping[str, Any]) -> Path:
    """Prefix of the checkpoint of --net: under --pretrained_dir by the authors' name, else as datasets.weights has it.

    Raises:
      DatasetError: one that datasets.weights knows is not there; the message holds the command that fetches it.
      UserError: another one is not there.
    """
    path = Path(config["pretrained_dir"]) / TABLE[config["net"]].checkpoint
    if path.is_file() or path.with_name(f"{path.name}.index").is_file():
        return path
    if path.name in weights.PACKED:
        return weights.find(path.name, Path(config["data_dir"]), None, config["accept_unverified"])[0]
    raise UserError(
        f"{shown(path)}: no ImageNet checkpoint for --net {config['net']}; put it there, or start with --init random"
    )


def digests(prefix: Path) -> dict[str, str]:
    """sha256 of each file of a checkpoint, for the record."""
    files = sorted(path for path in prefix.parent.glob(f"{prefix.name}*") if path.is_file())
    found = {}
    for path in files:
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
