"""The public ImageNet checkpoint that a run starts from: where its files are, and their digests. No framework."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datasets import weights
from reproduction.runtime.run_folder import UserError, read_json, shown
from triplet_tf.config.base_config import Config

DIGESTS = "initial_weights.json"  # in the run folder: digests of what a fresh run started from


def imagenet_checkpoint(config: Config) -> Path:
    """Finds the checkpoint of --net: below --pretrained_dir by the authors' name, else as datasets.weights has it.

    Returns:
      Its prefix, as in `resnet_v2_50/resnet_v2_50.ckpt`.
    Raises:
      DatasetError: one that datasets.weights knows is not there; the message holds the command that fetches it.
      UserError: another one is not there.
    """
    path = Path(config.pretrained_dir) / config.network.checkpoint
    if not _exists(path) and path.name in weights.PACKED:
        return weights.find(path.name, Path(config.data_dir), None, config.accept_unverified)[0]
    check_exists(path, config.net)
    return path


def checkpoint_digests(prefix: Path) -> dict[str, str]:
    """Returns the sha256 of each file of a checkpoint by name, for the record."""
    digests = {}
    for path in sorted(path for path in prefix.parent.glob(f"{prefix.name}*") if path.is_file()):
        with open(path, "rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def check_started_from(config: Config) -> None:
    """Compares the weights that a run started from with those of --pretrained_dir, if both are there.

    Raises:
      UserError: they are others.
    """
    started, prefix = config.folder / DIGESTS, Path(config.pretrained_dir) / config.network.checkpoint
    if config.init != "imagenet" or config.overwrite or not started.exists():
        return
    present = checkpoint_digests(prefix)
    if present and present != read_json(started):
        raise UserError(
            f"--pretrained_dir: {shown(config.folder)} started from other weights than {shown(prefix)}; choose another "
            "--name, or start again with --overwrite"
        )


def _exists(path: Path) -> bool:
    return path.is_file() or path.with_name(f"{path.name}.index").is_file()


def check_exists(path: Path, net: str) -> None:
    """Looks for a checkpoint in format V1 (one file) or V2 (`.index` and data).

    Args:
      path: prefix of the checkpoint.
      net: for the message.
    Raises:
      UserError: there is none.
    """
    if not _exists(path):
        raise UserError(
            f"{shown(path)}: no ImageNet checkpoint for --net {net}; put it there, or start with --init random"
        )
