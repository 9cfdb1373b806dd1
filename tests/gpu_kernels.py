"""Whether the operators that a graph places on a GPU can run there, by TensorFlow's own list; needs no GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reproduction.runtime.tf_import import frameworks

ANYWHERE = {"Placeholder", "VarIsInitializedOp", "NoOp"}  # fed, or outside a step


def without_kernel(operators: Iterable[Any]) -> list[str]:
    """Types of the operators on a GPU that have no kernel there; none if TensorFlow is not built with CUDA."""
    frameworks()  # sets what TensorFlow reads at import
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    def has_kernel(op: Any) -> bool:
        return any(
            kernel.device_type in ("GPU", "DEFAULT")
            and all(op.get_attr(one.name).as_datatype_enum in one.allowed_values.list.type for one in kernel.constraint)
            for kernel in kernels.get_registered_kernels_for_op(op.type).kernel
        )

    on_gpu = [op for op in operators if "GPU" in op.device and op.type not in ANYWHERE]
    return [op.type for op in on_gpu if not has_kernel(op)] if tf.test.is_built_with_cuda() else []
