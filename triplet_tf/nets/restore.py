"""How variables get the weights of a public ImageNet checkpoint, by name."""

from __future__ import annotations

from pathlib import Path

from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.config.initial_weights import check_exists
from triplet_tf.config.networks import TABLE


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
    check_exists(path, net)
    variables = restored_variables(net)
    try:
        shapes = tf1.train.load_checkpoint(str(path)).get_variable_to_shape_map()
    except Exception as error:  # whatever a damaged file raises
        raise UserError(f"{shown(path)}: not a readable checkpoint ({first_line(error)})") from None
    for variable in variables:
        name, shape = variable.op.name, variable.shape.as_list()
        if shapes.get(name) != shape:
            has = f"shape {shapes[name]} there, {shape}" if name in shapes else f"not in it, shape {shape}"
            raise UserError(f"{shown(path)}: {name} is {has} in --net {net}; this is a checkpoint of something else")
    try:
        tf1.train.Saver(variables).restore(session, str(path))
    except Exception as error:
        raise UserError(f"{shown(path)}: damaged ({first_line(error)})") from None


def weight_decay_terms(net: str) -> list[tf.Tensor]:
    """Collected L2 terms of the backbone, scalars, for `--weight_decay on`; W's is not among them (STL-D02)."""
    return tf1.losses.get_regularization_losses(TABLE[net].scope + "/")
