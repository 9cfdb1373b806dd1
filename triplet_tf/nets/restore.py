"""Weights of a public ImageNet checkpoint: where it lies, what it is, and how variables get them by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datasets import weights
from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, shown
from triplet_tf.config.base_config import Config
from triplet_tf.config.networks import TABLE
from triplet_tf.nets.layers import slim, tf, tf1

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
    _check_exists(path, config.net)
    return path


def checkpoint_digests(prefix: Path) -> dict[str, str]:
    """Returns the sha256 of each file of a checkpoint by name, for the record."""
    digests = {}
    for path in sorted(path for path in prefix.parent.glob(f"{prefix.name}*") if path.is_file()):
        with open(path, "rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def restored_variables(net: str) -> list[tf.Variable]:
    """Model variables of the current graph that come from the ImageNet checkpoint: all but the excluded prefixes.

    The embedding head, the centers, the global step and the optimizer's slots are no model variables.
    """
    known = TABLE[net]
    excluded = tuple(f"{prefix}/" for prefix in known.excluded)
    variables = slim.get_model_variables(known.scope + "/")
    return [variable for variable in variables if not variable.op.name.startswith(excluded)]


def restore_imagenet(session: tf1.Session, net: str, checkpoint_path: str | Path) -> None:
    """Fills `restored_variables` from a checkpoint, format V1 (one file) or V2 (`.index` and data).

    Args:
      session: on the graph with the network, its variables initialised.
      net: a key of `TABLE`.
      checkpoint_path: prefix, as in `resnet_v2_50/resnet_v2_50.ckpt`.
    Raises:
      UserError: no such file, not a checkpoint, or a variable that is missing there or has another shape; nothing is
        restored then.
    """
    path = Path(checkpoint_path)
    path = path.with_suffix("") if path.suffix == ".index" else path
    _check_exists(path, net)
    variables = restored_variables(net)
    try:
        shapes = tf1.train.load_checkpoint(str(path)).get_variable_to_shape_map()
    except Exception as error:  # noqa: BLE001 - whatever a damaged file raises
        raise UserError(f"{shown(path)}: not a readable checkpoint ({first_line(error)})") from None
    for variable in variables:
        name, shape = variable.op.name, variable.shape.as_list()
        if shapes.get(name) != shape:
            has = f"shape {shapes[name]} there, {shape}" if name in shapes else f"not in it, shape {shape}"
            raise UserError(f"{shown(path)}: {name} is {has} in --net {net}; this is a checkpoint of something else")
    try:
        tf1.train.Saver(variables).restore(session, str(path))
    except Exception as error:  # noqa: BLE001
        raise UserError(f"{shown(path)}: damaged ({first_line(error)})") from None


def weight_decay_terms(net: str) -> list[tf.Tensor]:
    """Collected L2 terms of the backbone, scalars, for `--weight_decay on`; W's is not among them (STL-D02)."""
    return tf1.losses.get_regularization_losses(TABLE[net].scope + "/")


def _exists(path: Path) -> bool:
    return path.is_file() or path.with_name(f"{path.name}.index").is_file()


def _check_exists(path: Path, net: str) -> None:
    if not _exists(path):
        raise UserError(
            f"{shown(path)}: no ImageNet checkpoint for --net {net}; put it there, or start with --init random"
        )
