"""What a backbone's variables start from: slim's networks with their own arg scopes."""

from __future__ import annotations

import numpy as np

from reproduction.runtime.tf import slim, tf1
from tests.initial_values import CUT, Initial, check, glorot

CONSTANT = {"biases": 0.0, "beta": 0.0, "gamma": 1.0, "moving_mean": 0.0, "moving_variance": 1.0}


def expected(net: str, name: str, shape: tuple[int, ...]) -> Initial:
    kind = name.rpartition("/")[2]
    if kind in CONSTANT:
        return Initial("constant", CONSTANT[kind])
    fan_in = int(np.prod(shape[:-1]))
    if net == "mobile":  # mobilenet_v1_arg_scope, depthwise kernels too
        return Initial("truncated", 0.09 * CUT)
    if net == "densenet161" or name.endswith(("Aux_logits/weights", "Logits/Logits/weights")):
        return glorot(fan_in, int(np.prod(shape[:-2])) * shape[-1])  # xavier, the layers' own default
    if net == "inc3" and "AuxLogits/Conv2d_2" in name:
        return Initial("truncated", CUT * (0.001 if "2b" in name else 0.01))
    return Initial("truncated", CUT * (1.3 * 2 / fan_in) ** 0.5)  # variance_scaling_initializer()


def check_backbone(net: str) -> None:
    """Draws every model variable of the current graph once, and checks it."""
    variables = slim.get_model_variables()
    with tf1.Session() as session:
        values = session.run([variable.initial_value for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        check(variable.op.name, value, expected(net, variable.op.name, value.shape))
