"""Imports TensorFlow and tf-slim together, for `tf.py`, from which all modules take the two.

tf-slim 1.1.0 is the newest release and predates TensorFlow 2.13: `frameworks` puts back the few names it looks up,
where they are missing, and returns the two modules.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from reproduction.runtime.hidden import hidden


def frameworks() -> tuple[Any, Any]:
    """Imports TensorFlow (Keras 2 behaviour, compat.v1 graphs) and tf-slim.

    Returns:
      (tensorflow.compat.v1, tf_slim).
    """
    if "tensorflow" not in sys.modules:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"  # LSTM cells and layers of compat.v1 need Keras 2
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off on some processors: three times slower
    with native_stderr_closed(), hidden("pandas", "sklearn"):  # for Keras's and slim's parts that nothing here uses
        import tensorflow as tf

        _restore_names_for_slim(tf)
        import tf_slim
    tf.get_logger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*layer.apply.*")  # tf-slim calls it

    tf.compat.v1.disable_eager_execution()
    return tf.compat.v1, tf_slim


@contextlib.contextmanager
def native_stderr_closed() -> Iterator[None]:
    """Hides messages of TensorFlow's C++ part about missing CUDA libraries; Python errors are still printed."""
    sys.stderr.flush()
    stderr_copy, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(null)


def _restore_names_for_slim(tf: Any) -> None:
    """Names that tf-slim 1.1.0 uses and newer TensorFlow moved; does nothing for those that are there."""
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import array_ops, control_flow_ops

    tf1 = tf.compat.v1
    moved = {
        ops: {"Tensor": tf.Tensor, "IndexedSlices": tf.IndexedSlices},
        array_ops: {"stack": tf.stack, "unstack": tf.unstack},
        control_flow_ops: {"cond": tf1.cond, "case": tf1.case, "while_loop": tf1.while_loop, "Assert": tf1.Assert},
    }
    for module, names in moved.items():
        for name, value in names.items():
            if not hasattr(module, name):
                setattr(module, name, value)
    layers = "tf_keras.legacy_tf_layers"
    try:
        importlib.import_module(f"{layers}.normalization")
    except ModuleNotFoundError:
        moved_to = "tf_keras.src.legacy_tf_layers"
        sys.modules[layers] = importlib.import_module(moved_to)
        sys.modules[f"{layers}.normalization"] = importlib.import_module(f"{moved_to}.normalization")
