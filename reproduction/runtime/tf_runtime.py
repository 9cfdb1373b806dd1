"""TensorFlow as both TensorFlow papers use it: compat.v1 graphs, tf-slim layers, Saver checkpoints. Functions only."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.orientation import orientation, turn
from reproduction.runtime.cores import requested_threads
from reproduction.runtime.driver import visible_gpu
from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf_import import native_stderr_closed


def start(seed: int, device: str, xla: bool = False, amp: str | None = None) -> Any:
    """Seeds everything, chooses the device, asks for deterministic kernels; call once, before any graph.

    Args:
      seed: all initial values and draws depend on it alone.
      device: auto, cpu, cuda or cuda:N.
      xla: compile clusters of the graph (`--xla`).
      amp: "bf16" lets TensorFlow rewrite the graph to bfloat16; "auto" does so if this CPU computes in it, and
        prints which it is. The rewrite is oneDNN's, for CPUs: on a GPU "auto" means TF32. "tf32" asks for TF32
        products on a GPU, which are off otherwise.
    Returns:
      The session configuration (tf1.ConfigProto).
    Raises:
      UserError: a GPU is asked for and TensorFlow sees none of that number, or device is auto, the driver lists a GPU
        and TensorFlow sees none.
    """
    if xla:
        os.environ["TF_XLA_FLAGS"] = "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"
    from reproduction.runtime.tf import tf, tf1

    with native_stderr_closed():
        gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif gpus or device != "auto":
        index = int(device.partition(":")[2] or 0)
        if index >= len(gpus):
            raise UserError(f"--device {device}: TensorFlow sees {len(gpus)} CUDA devices; use --device cpu")
        tf.config.set_visible_devices(gpus[index], "GPU")  # it would take memory of every GPU that it sees
    elif visible_gpu():
        raise UserError(
            f"--device {device}: TensorFlow sees no GPU although the driver lists one; run make setup GPU=1, then the "
            "same make command with GPU=1 (an old driver needs an update); --device cpu runs without a GPU"
        )
    tf.config.experimental.enable_tensor_float_32_execution(amp == "tf32" or (amp == "auto" and bool(gpus)))
    random.seed(seed)
    np.random.seed(seed)
    tf.config.experimental.enable_op_determinism()
    config = tf1.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    # a session with a configuration of its own does not ask tf.config which devices are visible
    visible = tf.config.get_visible_devices("GPU")
    config.device_count["GPU"] = len(visible)
    config.gpu_options.visible_device_list = ",".join(str(gpus.index(gpu)) for gpu in visible)
    threads = requested_threads()  # TensorFlow's own pools do not ask for it; 0 is their own choice
    config.intra_op_parallelism_threads = config.inter_op_parallelism_threads = threads
    fast = amp == "auto" and _computes_in_bfloat16() and gpu_name() is None
    if amp == "bf16" or fast:
        from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        # slower in bfloat16 than in float32: oneDNN has no fast strided depthwise gradient, Eigen no fast ReLU6
        for kind, names in (
            ("ALLOW", "DepthwiseConv2dNativeBackpropInput"),
            ("INFER", "Relu6,Relu6Grad"),
            ("CLEAR", "Relu6,Relu6Grad"),
        ):
            os.environ.setdefault(f"TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_{kind}LIST_REMOVE", names)
    if amp == "auto":
        print(f"precision: {precision_of(config)}", flush=True)
    return config


def _computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without them it is many times slower than float32."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(words)


def precision_of(config: Any) -> str:
    """What a session computes in, for the record."""
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    on = config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 == RewriterConfig.ON
    if on and gpu_name() is None:  # what lies on a GPU is not rewritten
        return "bfloat16"
    from reproduction.runtime.tf import tf

    tf32 = tf.config.experimental.tensor_float_32_execution_enabled() and gpu_name() is not None
    return "float32 with TF32 products" if tf32 else "float32"


def upright(image: Any, raw: Any) -> Any:
    """Turns a decoded image as the EXIF orientation of its file says; for tf.data pipelines.

    Args:
      image: uint8 [H, W, C], as TensorFlow's decoders leave it, which ignore the orientation.
      raw: scalar string, the bytes of the file.
    Returns:
      uint8 [H, W, C], or [W, H, C] for orientations 5 to 8.
    """
    from reproduction.runtime.tf import tf

    # stateless, or tf.data decodes one image after the other if op determinism is on
    number = tf.numpy_function(lambda raw: np.int32(orientation(raw)), [raw], tf.int32, stateful=False)
    turned = lambda: tf.numpy_function(turn, [image, number], tf.uint8, stateful=False)  # noqa: E731
    return tf.ensure_shape(tf.cond(number > 1, turned, lambda: image), [None, None, image.shape[2]])


def gpu_name() -> str | None:
    """Model of the first visible GPU, or None."""
    from reproduction.runtime.tf import tf

    gpus = tf.config.get_visible_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else None


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Readable checkpoints of a folder as (global step, prefix), newest first.

    A prefix whose files do not open (truncated, half overwritten) is named on stderr and left out.
    """
    from reproduction.runtime.tf import tf1

    readable = []
    for index in folder.glob("model-*.index"):
        prefix = index.with_suffix("")
        try:
            readable.append((int(tf1.train.load_checkpoint(str(prefix)).get_tensor("global_step")), prefix))
        except Exception as error:  # whatever a damaged file raises, the one before may still do
            print(f"{shown(prefix)}: not a readable checkpoint ({first_line(error)})", file=sys.stderr)
    return sorted(readable, key=lambda item: (item[0], str(item[1])), reverse=True)


def newest_name(folder: Path) -> Path | None:
    """Prefix of the checkpoint that Saver wrote last, by its `checkpoint` file; imports no TensorFlow."""
    try:
        name = re.match(r'model_checkpoint_path: "(.*)"', (folder / "checkpoint").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return folder / Path(name.group(1)).name if name else None


def restore_newest(session: Any, saver: Any, folder: Path, after: int = -1) -> int | None:
    """Restores the newest checkpoint that is whole; falls back to the one before, with a line.

    Args:
      session: session of the graph.
      saver: tf1.train.Saver of its variables.
      folder: run folder.
      after: only checkpoints of later steps count.
    Returns:
      Its global step, or None if the folder contains no such checkpoint.
    Raises:
      UserError: checkpoints are there but none can be restored.
    """
    present = [item for item in checkpoints(folder) if item[0] > after]
    for step, prefix in present:
        try:
            saver.restore(session, str(prefix))
            return step
        except Exception as error:
            print(f"{shown(prefix)}: cannot be restored ({first_line(error)}); trying the one before", file=sys.stderr)
    if present or (after < 0 and any(folder.glob("model-*.index"))):
        raise UserError(f"{shown(folder)}: no checkpoint can be restored; --overwrite starts anew")
    return None


def checkpoint_prefix(path: Path) -> Path:
    """Returns the prefix of a checkpoint, given with or without `.index`, or raises UserError if it does not exist."""
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(f"{prefix.name}.index").exists():
        raise UserError(f"{shown(prefix)}: no such checkpoint (expected {prefix.name}.index next to its data file)")
    return prefix


def restore_for_evaluation(session: Any, prefix: Path, built: str, variables: Sequence[Any] | None = None) -> None:
    """Restores one checkpoint for use, not for going on.

    Args:
      session: session of the graph.
      prefix: `.../model-<i>`, with or without `.index`.
      built: the network in the graph, for the message.
      variables: what to restore; None is every variable of the graph.
    Raises:
      UserError: missing, damaged, or of another architecture.
    """
    from reproduction.runtime.tf import tf1

    prefix = checkpoint_prefix(prefix)
    variables = tf1.global_variables() if variables is None else variables
    try:
        shapes = tf1.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
        for variable in variables:  # Saver itself does not compare shapes of resource variables
            name, shape = variable.op.name, variable.shape.as_list()
            if shapes.get(name) != shape:
                raise ValueError(f"{name} is {shapes.get(name, 'absent')} there, {shape} here")
        tf1.train.Saver(variables).restore(session, str(prefix))
    except Exception as error:
        raise UserError(
            f"{shown(prefix)}: does not fit {built}, or is damaged ({first_line(error)}); "
            "give the flags it was trained with"
        ) from None


def save_checkpoint(session: Any, saver: Any, prefix: Path, keep: Iterable[int], with_graph: bool = False) -> None:
    """Saves all variables under `prefix` and deletes older checkpoints but the newest two and those to keep.

    Args:
      session: session of the graph.
      saver: tf1.train.Saver of its variables.
      prefix: path of the checkpoint without suffix.
      keep: global steps that stay (the best one).
      with_graph: whether to write the graph too (`.meta`).
    Raises:
      UserError: no space and the like; the files of the failed attempt are removed.
    """
    try:
        saver.save(session, str(prefix), write_meta_graph=with_graph)
    except Exception as error:
        for partial in prefix.parent.glob(f"{prefix.name}.*temp*"):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{shown(prefix)}: cannot be saved ({first_line(error)}); the previous checkpoint is "
            "complete: free some disk space, then run the same command again"
        ) from None
    keep = set(keep)
    for step, old in checkpoints(prefix.parent)[2:]:
        if step not in keep:
            for file in old.parent.glob(f"{old.name}.*"):
                file.unlink()


@contextlib.contextmanager
def session(config: Any = None) -> Iterator[Any]:
    """A session on the current graph with all variables initialised."""
    from reproduction.runtime.tf import tf1

    with tf1.Session(config=config) as opened:
        opened.run([tf1.global_variables_initializer(), tf1.local_variables_initializer()])
        yield opened
