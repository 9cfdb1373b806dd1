"""What the benchmarks of both TensorFlow papers share: their sessions, two of them on one graph, and a bare loop."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import NotSupported, Pair, interleave, rate
from reproduction.runtime import tf_runtime
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import tf, tf1


def started(device: str) -> tf1.ConfigProto:
    """Session configuration.

    Raises:
      NotSupported: TensorFlow sees no such device.
    """
    try:
        return tf_runtime.start(0, device)
    except UserError as error:
        raise NotSupported(str(error)) from None


def precision_configs() -> list[tf1.ConfigProto]:
    """Session configurations on the CPU: in float32, and in bfloat16 (--amp auto).

    Raises:
      NotSupported: this CPU has no instructions for bfloat16.
    """
    configs = [started("cpu"), tf_runtime.start(0, "cpu", amp="auto")]
    if tf_runtime.precision_of(configs[1]) == "float32":
        raise NotSupported("this CPU has no instructions for bfloat16; --amp auto computes in float32")
    return configs


def xla_configs(device: str) -> list[tf1.ConfigProto]:
    """Session configurations without XLA, and with it; raises as `started`."""
    # each session says whether it wants XLA; TensorFlow reads this when it looks for devices
    os.environ["TF_XLA_FLAGS"] = "--tf_xla_cpu_global_jit"
    without, with_xla = started(device), started(device)
    without.graph_options.optimizer_options.global_jit_level = tf1.OptimizerOptions.OFF
    with_xla.graph_options.optimizer_options.global_jit_level = tf1.OptimizerOptions.ON_2
    return [without, with_xla]


def compare_sessions(
    name: str,
    batch: int,
    train: Any,
    configs: list[tf1.ConfigProto],
    start: Callable[[tf1.Session], object] = lambda session: None,
    inner: int = 1,
) -> Pair:
    """Images/s of an op of the current graph in two sessions, with the first and with the second configuration.

    Args:
      name: of the row.
      batch: images of a step.
      train: the op.
      configs: of the two sessions.
      start: called with each session after its variables are initialised.
      inner: steps of one measurement.
    Raises:
      NotSupported: TensorFlow cannot run the op in one of them, such as one that XLA cannot compile.
    """
    rates, ready = [], tf1.global_variables_initializer()
    for config in configs:
        session = tf1.Session(config=config)
        session.run(ready)
        start(session)
        try:
            session.run(train)  # XLA may compile at the first step or at the second, the warm-up of `interleave`
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError) as error:
            raise NotSupported(str(error).splitlines()[0]) from None
        rates.append(rate(batch, functools.partial(session.run, train), inner))
    return interleave(name, "images/s", rates[0], rates[1])


def bare_loop(session: tf1.Session, reset: Any, graph: Any, batch: int, steps: int) -> float:
    """Images/s of the simplest loop.

    Args:
      session: on the graph of a run.
      reset: op that initialises the variables.
      graph: of the run, with `batches` and `train`.
      batch: images of a step.
      steps: how many.
    """
    session.run(reset)
    graph.batches.start(session, 0)
    began = time.perf_counter()
    for _ in range(steps):
        session.run(graph.train)
    return steps * batch / (time.perf_counter() - began)
