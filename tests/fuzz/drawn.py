"""Inputs that hypothesis draws: damage as in `mutate`, bytes and words put into valid files, other values in documents.

Hypothesis makes every choice: which valid file, which damage, where, and what stands there then. So an input that
breaks the property is made as small as it can be before it is reported. The same seed gives the same inputs.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tests.fuzz import engine, seeds
from tests.fuzz.engine import Fault, Target

SHRUNK = 5  # kinds of fault of one target that are made small; the rest is reported as it was found
SPARE = 20  # examples asked for on top, since some inputs come twice
WORDS = 1 << 16  # longer texts are not taken apart into words
MARKS = st.sampled_from(("\n", "\r", "\0", "\x1b[2J", "\u2028", "\ud800", "../up", "/etc/x", "%s", "{0}", "<script>"))
TEXT = st.text(max_size=8) | MARKS
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NUMBERS = nps.arrays(nps.boolean_dtypes() | nps.integer_dtypes(endianness="<") | nps.floating_dtypes(), SHAPES)
ARRAYS = NUMBERS | nps.arrays(nps.scalar_dtypes() | nps.array_dtypes(max_size=2), SHAPES)


# ---- documents: what a valid file holds, and how another such file is written ---------------------------------------


class Format(NamedTuple):
    """A way to write documents: lists and dictionaries with values in them.

    Attributes:
      load: gives the document of a valid file; any error says that the file is none.
      dump: writes a document; any error says that it cannot be written.
      values: what may stand in it.
    """

    load: Callable[[bytes], Any]
    dump: Callable[[Any], bytes]
    values: st.SearchStrategy[Any]


def _container(value: Any) -> Any:
    if not isinstance(value, (dict, list)):
        raise ValueError("no document")
    return value


def _begins(data: bytes, magic: bytes) -> bytes:
    if not data.startswith(magic):
        raise ValueError("another format")
    return data


def _read_npz(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def _read_mat(data: bytes) -> dict[str, Any]:
    from scipy.io import loadmat

    found = loadmat(io.BytesIO(_begins(data, b"MATLAB")))
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _read_checkpoint(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if not any(name.endswith("data.pkl") for name in packed.namelist()):
            raise ValueError("no checkpoint")
    import torch

    return _container(torch.load(io.BytesIO(data), weights_only=True))


def _write_checkpoint(document: Any) -> bytes:
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tensors(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [tensors(inner) for inner in value]
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    out = io.BytesIO()
    torch.save(tensors(document), out)
    return out.getvalue()


def _read_pickle(data: bytes) -> Any:
    return _container(pickle.loads(_begins(data, b"\x80"), encoding="latin1"))


def _write_pickle(document: Any) -> bytes:
    """As Python 2 does, which wrote CIFAR."""
    from tests.datasets.conftest import _py2

    def opcodes(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(opcodes(key) + opcodes(inner) for key, inner in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        plain = isinstance(value, np.ndarray) or (isinstance(value, str) and value.isascii())
        return _py2(value) if plain else pickle.dumps(value, 2)[2:-1]

    return b"\x80\x02" + opcodes(document) + b"."


def _read_records(data: bytes) -> list[dict[str, Any]]:
    from subclass_torch.yt8m.tfrecord import parse_example

    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found.append(dict(parse_example(data[at + 12 : at + 12 + length])))
        at += 16 + length
    if _write_records(found) != data:
        raise ValueError("other bytes that happen to pass")
    return found


def _write_records(document: Any) -> bytes:
    from subclass_torch.yt8m.tfrecord import build_example, frame

    return b"".join(frame(build_example(example)) for example in document)


FORMATS = (
    Format(lambda data: _container(json.loads(data)), seeds.dumped, JSON),
    Format(
        lambda data: [json.loads(line) for line in data.splitlines() if _container(json.loads(line))],
        lambda document: b"".join(seeds.dumped(line) + b"\n" for line in document),
        JSON,
    ),
    Format(
        lambda data: [np.load(io.BytesIO(_begins(data, b"\x93NUMPY")))], lambda document: seeds.npy(*document), ARRAYS
    ),
    Format(_read_checkpoint, _write_checkpoint, JSON | NUMBERS | NUMBERS),  # before npz: both are zips
    Format(_read_npz, seeds.npz, ARRAYS | PLAIN),
    Format(_read_mat, seeds.mat, ARRAYS | TEXT | st.lists(TEXT, max_size=3).map(lambda x: np.array(x, object))),
    Format(_read_pickle, _write_pickle, JSON | nps.arrays(np.uint8, nps.array_shapes(min_dims=2, max_dims=2))),
    Format(
        _read_records,
        _write_records,
        st.lists(st.binary(max_size=9), max_size=3) | nps.arrays(np.int64, SHAPES) | nps.arrays(np.float32, SHAPES),
    ),
)


def documents(valid: Sequence[bytes]) -> list[tuple[Format, Any]]:
    """The valid files that one of the formats understands, with what is in them."""
    found = []
    for data in valid:
        for form in FORMATS:
            with suppress(Exception):
                if document := form.load(data):
                    found.append((form, document))
                    break
    return found


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*at, key))


def _changed(value: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of the document along `place` only, in which `change(container, key)` was done at its end."""
    new = copy.copy(value)
    if len(place) == 1:
        change(new, place[0])
    else:
        new[place[0]] = _changed(new[place[0]], place[1:], change)
    return new


@st.composite
def grafted(draw: Any, known: Sequence[tuple[Format, Any]]) -> bytes:
    """One to three values of a valid document replaced, removed or added, or put under another name."""
    form, document = draw(st.sampled_from(known))

    def change(container: Any, key: Any) -> None:
        action = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "rename")))
        if action in ("remove", "rename"):
            value = container.pop(key)
        if action in ("replace", "add", "rename") and isinstance(container, dict):
            name = key if action == "replace" else draw(TEXT)
            container[name] = value if action == "rename" else draw(form.values)
        elif action == "replace":
            container[key] = draw(form.values)
        elif action in ("add", "rename"):
            container.insert(draw(st.integers(0, len(container))), draw(form.values))

    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(_places(document))))
        document = _changed(document, place, change) if place else draw(form.values)
    try:
        return form.dump(document)
    except Exception:  # a value that this format has no way to write
        reject()


# ---- bytes and words ------------------------------------------------------------------------------------------------


@st.composite
def patched(draw: Any, valid: Sequence[bytes]) -> bytes:
    """Up to three stretches of a valid file (or of an empty one, the smallest) replaced by drawn bytes."""
    data = draw(st.sampled_from([b"", *valid]))
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(data))), draw(st.sampled_from((0, 1, 2, 4, 8, 64)))
        data = data[:at] + draw(st.binary(max_size=16)) + data[at + size :]
    return data


@st.composite
def reworded(draw: Any, texts: Sequence[str]) -> bytes:
    """Up to three words, numbers or marks of a valid text replaced, removed or doubled."""
    words = re.findall(r"[\w.+-]+|\s+|.", draw(st.sampled_from(texts)))
    other = TEXT | st.integers().map(str) | st.floats().map(str) | st.sampled_from(words)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words) - 1))
        words[at] = draw(other | st.just("") | st.just(words[at] * 2))
    return "".join(words).encode("utf-8", "surrogatepass")


def _texts(valid: Sequence[bytes]) -> list[str]:
    found = []
    for data in valid:
        with suppress(UnicodeDecodeError):
            if 0 < len(data) < WORDS:
                found.append(data.decode())
    return found


def strategy(target: Target) -> st.SearchStrategy[bytes]:
    """Inputs that suit a reader."""
    valid, planted = list(target.seeds()), list(target.hostile())
    made = st.randoms(use_true_random=False).map(lambda rng: engine.damaged(target, valid, planted, rng))
    kinds = [made, made, made, patched(valid), st.binary(max_size=300)]
    if known := documents(valid):
        kinds += [grafted(known)] * 3
    if any(form.dump is seeds.dumped for form, _ in known):
        kinds.append(JSON.map(seeds.dumped))
    if texts := _texts(valid):
        kinds += [reworded(texts)] * 2
    return st.sampled_from(range(len(kinds))).flatmap(kinds.__getitem__)


# ---- the run --------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """Tells hypothesis that an input broke the property."""


def run(
    target: Target, count: int, seed: int, folder: Path, start: int = 0, note: engine.Note | None = None
) -> list[Fault]:
    """`count` inputs, all different; where one breaks the property, hypothesis looks for the smallest that does.

    Args:
      target: the parser.
      count: inputs to read; those on the way to a smaller one count too.
      seed: of the draws.
      folder: an existing scratch folder.
      start: inputs that are only drawn and not read (after a crash of the process, the same ones come again).
      note: called with every input before it is read.
    Returns:
      The faults, one for each kind.
    """
    verdicts: dict[bytes, str] = {}
    found: dict[str, Fault] = {}
    small: set[str] = set()
    hunted = ""

    def examine(data: bytes) -> None:
        nonlocal hunted
        mark = hashlib.blake2b(data, digest_size=12).digest()
        if mark not in verdicts:
            if len(verdicts) >= count and not hunted:
                return
            number, verdicts[mark] = len(verdicts), ""
            if number >= start:
                verdicts[mark] = engine.noted(target, data, folder, "", note, drawn=True)
        what = verdicts[mark]
        kind, fault = engine.kind(what), Fault(target.name, f"hypothesis {len(verdicts) - 1}", what, data)
        if kind and (kind == hunted or (not hunted and kind not in small and len(small) < SHRUNK)):
            hunted = kind
            found[kind] = fault  # the last one is the smallest
            raise Broken
        if kind:
            found.setdefault(kind, fault)

    suits, part = strategy(target), 0
    while len(verdicts) < count:
        before = len(verdicts), len(small)
        calm = settings(
            max_examples=count - len(verdicts) + SPARE,
            deadline=None,
            database=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink),
            verbosity=Verbosity.quiet,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        number = random.Random(f"{seed}/{target.name}/hypothesis/{part}").getrandbits(64)
        with suppress(Broken):
            seeded(number)(calm(given(suits)(examine)))()
        small |= {hunted} - {""}
        hunted, part = "", part + 1
        if before == (len(verdicts), len(small)):
            break  # nothing new comes any more
    return list(found.values())
