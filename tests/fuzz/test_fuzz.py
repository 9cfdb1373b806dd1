"""A small share of the fuzzing in the ordinary suite, hypothesis on top of it, and the engine's own honesty."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reproduction.runs import REPO_ROOT, UserError
from subclass_torch.tfrecord import frame, records
from tests.fuzz import __main__ as program
from tests.fuzz import engine, mutate, seeds
from tests.fuzz.targets import table

PLAIN = [name for name, target in table().items() if not target.framework]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("framework", "inputs"), [("", 2500), ("torch", 200), ("tf", 20)])
def test_no_parser_breaks_the_property(tmp_path, framework, inputs):
    """Every valid input is read, every planted one refused, and of the damaged ones a few hundred a second."""
    out = tmp_path / "fuzz.json"
    words = ["--inputs", str(inputs), "--frameworks", framework, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words], cwd=REPO_ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    names = {name for name, target in table().items() if target.framework == framework}
    assert {target["name"] for target in found["targets"]} == names
    assert found["inputs"] >= inputs and found["faults"] == 0


@cache
def warm(name, folder):
    """Imports and first calls come before the watch."""
    engine.watch()
    engine.warm_up(table()[name], folder)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", PLAIN)
def test_any_bytes(tmp_path, name, data):
    warm(name, tmp_path)
    assert not engine.judge(table()[name], data, tmp_path)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
@pytest.mark.parametrize("name", [name for name in PLAIN if mutate.json_value in table()[name].inside])
def test_any_json(tmp_path, name, value):
    warm(name, tmp_path)
    assert not engine.judge(table()[name], json.dumps(value).encode() + b"\n", tmp_path)


# ---- the engine sees what it is there to see ------------------------------------------------------------------------


def _unpickle(path):
    return pickle.loads(path.read_bytes())


def _write_beside(path):
    (path.parent.parent / "up").write_bytes(b"")


def _remove_beside(path):
    os.remove(path.parent.parent / "up")


def _wrong(path):
    raise KeyError("x")


class TwoLines(UserError):
    def __str__(self):
        return "one\ntwo"


def _lines(path):
    raise TwoLines("")


@pytest.mark.parametrize(
    ("parse", "data", "said"),
    [
        (_unpickle, pickle.dumps(seeds.planted()[0]), "it did os.system"),
        (_unpickle, pickle.dumps(seeds.planted()[1]), "it did fuzz.canary"),
        (_write_beside, b"", "it did open"),
        (_remove_beside, b"", "it did os.remove"),
        (_wrong, b"", "KeyError"),
        (_lines, b"", "several lines"),
        (lambda path: None, b"", "was accepted"),
    ],
)
def test_the_engine_sees_a_bad_parser(tmp_path, parse, data, said):
    engine.watch()
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "up").touch()
    target = engine.Target("t", "f", lambda: [b""], parse, (UserError,))
    assert said in engine.judge(target, data, folder, "refuse")


def test_a_slow_parser_and_a_greedy_one_are_seen(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from tests.fuzz import engine
        engine.LIMIT_S = 1
        engine.limit_memory()
        for parse in (lambda path: time.sleep(30), lambda path: bytes(8 << 30)):
            print(engine.judge(engine.Target("t", "f", list, parse, ()), b"", Path(sys.argv[1])))
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    slow, greedy = subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert slow.startswith("Slow") and greedy.startswith("MemoryError")


def test_a_parser_that_ends_the_process_is_a_fault_and_the_rest_goes_on():
    found = {result["name"]: result for result in program.parent({"idx": 30, "csv list": 10}, 0, "tests.fuzz.dying")}
    assert [fault["input"] for fault in found["idx"]["faults"]] == ["position 3"]
    assert found["idx"]["inputs"] >= 30 and found["csv list"]["inputs"] >= 10 and not found["csv list"]["faults"]


def test_the_same_seed_gives_the_same_inputs():
    target = table()["csv list"]
    valid, planted = list(target.seeds()), list(target.hostile())
    made = [[engine.make(target, valid, planted, seed, k) for k in range(200)] for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2] and len(set(made[0])) > 150


def _tfrecords(data):
    path = Path(tempfile.mkdtemp()) / "r"
    path.write_bytes(data)
    return list(records(path))


@pytest.mark.parametrize(
    ("mutator", "whole", "opened"),
    [
        (mutate.zip_member, seeds.npz({"a": np.arange(50)}), lambda data: zipfile.ZipFile(io.BytesIO(data)).testzip()),
        (
            mutate.tar_member,
            seeds.tar([("a", b"123")]),
            lambda data: tarfile.open(fileobj=io.BytesIO(data)).getmembers(),
        ),
        (mutate.records, frame(b"x" * 90) * 3, _tfrecords),
        (mutate.gzipped, gzip.compress(b"x" * 90, mtime=0), gzip.decompress),
    ],
)
def test_damage_inside_a_container_passes_its_checksums(mutator, whole, opened):
    damaged = [mutator(whole, random.Random(k)) for k in range(40)]
    assert damaged.count(whole) < 10
    for data in damaged:
        opened(data)  # raises where a checksum does not match
