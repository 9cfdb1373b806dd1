"""A small share of the fuzzing in the ordinary suite, hypothesis on top of it, and the engine's own honesty."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import math
import os
import pickle
import random
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from reproduction.runtime.run_folder import REPO_ROOT, UserError
from subclass_torch.yt8m.tfrecord import frame, records
from tests.fuzz import __main__ as program
from tests.fuzz import drawn, engine, mutate, seeds
from tests.fuzz.targets import table


@pytest.mark.parametrize(("framework", "inputs"), [("", 1500), ("torch", 200), ("tf", 20)])
def test_no_parser_breaks_the_property(tmp_path, framework, inputs):
    """Every valid input is read, every planted one refused, and of the damaged ones a few hundred a second."""
    out = tmp_path / "fuzz.json"
    words = ["--inputs", str(inputs), "--frameworks", framework, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    work = program.share_out(inputs, [name for name, target in table().items() if target.framework == framework])
    assert {target["name"] for target in found["targets"]} == work.keys()
    assert found["inputs"] >= inputs and found["faults"] == 0
    assert all(target["hypothesis"] == math.ceil(program.DRAWN * work[target["name"]]) for target in found["targets"])


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
    slow, greedy = subprocess.run(
        words, cwd=REPO_ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout.splitlines()
    assert slow.startswith("Slow") and greedy.startswith("MemoryError")


def test_a_parser_that_ends_the_process_is_a_fault_and_the_rest_goes_on():
    """At a planted input, and at one that hypothesis drew, after 2 valid, 12 planted and 4 damaged ones."""
    found = {result["name"]: result for result in program.parent({"idx": 30, "csv list": 10}, 0, "tests.fuzz.dying")}
    assert [fault["input"] for fault in found["idx"]["faults"]] == ["position 3"]
    assert found["idx"]["inputs"] >= 30 and found["idx"]["hypothesis"] == 17
    (fault,) = found["csv list"]["faults"]
    assert fault["input"] == "position 20" and fault["hex"]
    assert found["csv list"]["inputs"] == 24 and found["csv list"]["hypothesis"] == 6


# ---- hypothesis -----------------------------------------------------------------------------------------------------


def _reader(parse, *valid):
    """A target that keeps the inputs it was given, and the list of these."""
    given = []

    def keep(path):
        given.append(path.read_bytes())
        parse(given[-1])

    return engine.Target("t", "f", lambda: valid, keep, (UserError,), inside=(mutate.json_value,)), given


def _two_faults(data):
    if b"\xff" in data:
        raise KeyError("one")
    if b"\0" in data and len(data) > 3:
        raise KeyError("two")


def test_hypothesis_makes_every_fault_small(tmp_path):
    target, given = _reader(_two_faults, bytes(range(1, 200)))
    found = drawn.run(target, 300, 0, tmp_path)
    assert sorted(fault.what.partition(" at ")[0] for fault in found) == ["KeyError: \"'one'\"", "KeyError: \"'two'\""]
    for fault in found:
        mark = b"\xff" if "one" in fault.what else b"\0"
        assert fault.data.count(mark) == 1 < max(data.count(mark) for data in given)


def test_the_same_seed_draws_the_same_inputs_and_none_twice(tmp_path):
    made = []
    for seed in (0, 0, 1):
        target, given = _reader(lambda data: None, b'{"a": [1, {"b": "text"}]}', b"0,1\n")
        assert not drawn.run(target, 150, seed, tmp_path)
        made.append(given)
    assert made[0] == made[1] != made[2] and len(set(made[0])) == len(made[0]) == 150
    target, given = _reader(lambda data: None, b'{"a": [1, {"b": "text"}]}', b"0,1\n")
    drawn.run(target, 150, 0, tmp_path, start=100)
    assert given == made[0][100:]


def test_documents_are_written_as_their_readers_take_them(tmp_path):
    """Every format is that of some reader, which reads what the format makes of the same document."""
    for name in ("modules", "cluster_files"):  # what their imports do, torchvision's too, is not watched here
        importlib.import_module(f"finegrained_torch.training.{name}")
    engine.watch()
    used = set()
    for target in table().values():
        if target.framework != "tf":
            for form, document in drawn.documents(target.seeds()):
                used.add(drawn.FORMATS.index(form))
                assert not engine.judge(target, form.dump(document), tmp_path, "read"), target.name
    assert used == set(range(len(drawn.FORMATS)))


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
