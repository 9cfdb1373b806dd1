"""Checks of a parameter's initial values: standard deviation and shape of the distribution."""

from typing import NamedTuple

import numpy as np

CUT = 0.87962566103423978  # standard deviation of a standard normal that is cut at two deviations
LARGEST = {"uniform": 3**0.5, "truncated": 2 / CUT}  # in standard deviations
MANY = 5000  # from so many values on, the largest of them tells the distributions apart


class Initial(NamedTuple):
    """How a parameter starts: constant, uniform, normal or truncated (at two deviations), and its value or spread."""

    kind: str
    value: float


def he(fan: int) -> float:
    """Standard deviation sqrt(2 / fan) of He's and Kaiming's initial values."""
    return (2 / fan) ** 0.5


def torch_default(fan_in: int) -> Initial:
    """What nn.Conv2d and nn.Linear draw weights and biases from."""
    return Initial("uniform", (1 / (3 * fan_in)) ** 0.5)


def glorot(fan_in: int, fan_out: int) -> Initial:
    """Glorot's uniform distribution: within sqrt(6 / (fan_in + fan_out))."""
    return Initial("uniform", (2 / (fan_in + fan_out)) ** 0.5)


def check(name: str, values: np.ndarray, initial: Initial) -> None:
    """Asserts that values were drawn as `initial` says; 6 standard errors of the deviation are allowed."""
    values = np.asarray(values, np.float64).ravel()
    if initial.kind == "constant":
        assert (values == np.float32(initial.value)).all(), name
        return
    spread, largest = float(np.sqrt((values**2).mean())), np.abs(values).max() / initial.value
    assert abs(spread / initial.value - 1) < 6 / (2 * len(values)) ** 0.5, f"{name}: {spread:.5f}, not {initial}"
    assert abs(values.mean()) < 6 * initial.value / len(values) ** 0.5, name
    if initial.kind in LARGEST:
        assert largest <= LARGEST[initial.kind] * 1.0001, f"{name}: {largest:.3f} deviations"
    if len(values) >= MANY:
        lowest = {"uniform": 1.7, "truncated": 2.1, "normal": 2.9}[initial.kind]
        assert largest > lowest, f"{name}: largest value {largest:.3f} deviations, not {initial.kind}"
