"""Reads the CIFAR batches, which are Python 2 pickles, without ever running code that a pickle names.

A pickle names functions to call. Here every name but the four that a NumPy array needs is refused, and those four
stand for inert classes of ours: no function of NumPy's or of anybody's is called with the file's arguments.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from datasets.core import DatasetError
from datasets.files import reading

# A memo index makes the unpickler reserve a table of that length, whatever the file's size.
MOST_MEMO = 1 << 20
# A batch has about ten tuples; a million of them, one in the other, would overflow the interpreter's own stack.
MOST_TUPLES = 1000
# A batch has four calls, and each has an argument tuple; but a tuple that is stored once can serve many calls.
CALLS = frozenset({"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"})
MOST_CALLS = 1000
# Most bytes that all calls can make: each at most as many as the longest text has characters (CIFAR-100: 614 million).
MOST_BYTES = 1 << 32


# Every stand-in has a __setstate__: without one, a pickle could set attributes on the class itself.


class _Dtype:
    """Stands for numpy.dtype; keeps the type's code, takes and ignores the rest of its state."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Ndarray:
    """Stands for the name numpy.ndarray."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("an array without its state")


class _Array:
    """Stands for an array under reconstruction; holds the bytes as uint8 once its state is known."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without its state")
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1") or fortran:
            raise pickle.UnpicklingError("an array that is not uint8 in C order")
        if isinstance(raw, str):
            raw = raw.encode("latin-1")
        if not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array without data")
        if not all(type(n) is int and 0 <= n <= len(raw) for n in shape):
            raise pickle.UnpicklingError(f"an array of the impossible shape {shape}"[:100])
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


class _Encode:
    """Stands for _codecs.encode(text, "latin1"), which Python 3 writes for bytes in an old protocol."""

    def __new__(cls, text: object = "", encoding: object = "latin1") -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
            raise pickle.UnpicklingError("bytes in an unexpected encoding")
        return text.encode("latin-1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes with a state")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data needs; nothing was run")
        return ALLOWED[module, name]


def _scan(raw: bytes) -> None:
    """Walks the opcodes without running them; refuses what would exhaust the memory or the stack."""
    tuples = calls = longest = 0
    for opcode, argument, _ in pickletools.genops(raw):
        tuples += "TUPLE" in opcode.name
        calls += opcode.name in CALLS
        if isinstance(argument, str):
            longest = max(longest, len(argument))
        if tuples > MOST_TUPLES or calls > MOST_CALLS:
            raise pickle.UnpicklingError(f"more than {MOST_TUPLES} tuples or {MOST_CALLS} calls")
        if calls * longest > MOST_BYTES:
            raise pickle.UnpicklingError(f"{calls} calls with texts of up to {longest:,} characters")
        if "PUT" in opcode.name and isinstance(argument, int) and not 0 <= argument < MOST_MEMO:
            raise pickle.UnpicklingError(f"memo index {argument}")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise pickle.UnpicklingError("an array without data")
        return value.value
    return value


def load(raw: bytes, what: str) -> dict[str, Any]:
    """The dictionary in a CIFAR batch, its keys as str.

    Args:
      raw: the file's bytes.
      what: the file's name, for messages.

    Returns:
      Values as the file has them: uint8 arrays, lists, ints, bytes.

    Raises:
      DatasetError: damaged, or a pickle that is not plain data.
    """
    with reading(what):
        _scan(raw)
        value = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        if not isinstance(value, dict):
            raise DatasetError(f"{what}: holds a {type(value).__name__}, not the dictionary of a CIFAR batch")
        return {k.decode("ascii") if isinstance(k, bytes) else str(k): _plain(v) for k, v in value.items()}
