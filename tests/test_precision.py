"""Accuracy in bfloat16 against float32: both trainings differ by their precision alone, and the means are compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import precision
from benchmarks.measure import NotSupported

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("paper", sorted(precision.BASELINES))
def test_both_precisions_differ_by_their_flag_alone(paper, tmp_path):
    settings = []
    for name in precision.FLAGS:
        done = subprocess.run(
            [sys.executable, *precision.words(paper, 1, name, False, tmp_path), "--print-config"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        settings.append(json.loads(done.stdout))
    key = "precision" if paper == "finegrained" else "amp"
    assert [config.pop(key) for config in settings] == (
        ["32-true", "bf16-mixed"] if key == "precision" else [None, "bf16"]
    )
    for config in settings:
        config.pop("argv", None)
    assert settings[0] == settings[1]


def test_precision_compares_the_means(monkeypatch):
    from reproduction.runtime import torch_fast

    reached = {"float32": [80.0, 81.0, 82.0], "bfloat16": [81.0, 82.0, 82.0]}
    monkeypatch.setattr(precision, "accuracy", lambda paper, seed, name, small, folder: (reached[name][seed], 60))
    monkeypatch.setattr(precision.datasets, "load", lambda *_, **__: None)
    monkeypatch.setattr(torch_fast, "computes_bf16", lambda device: True)
    found = precision.difference("subclass", False).summary()
    assert found["ours"] == pytest.approx(2 / 3) and found["baseline"] == 0.5 and found["ratio"] < 1
    assert "float32 80.00, 81.00, 82.00 %" in found["note"] and "; 6 minutes of training" in found["note"]
    monkeypatch.setattr(torch_fast, "computes_bf16", lambda device: False)
    with pytest.raises(NotSupported, match="no instructions for bfloat16"):
        precision.difference("subclass", False)


@pytest.mark.parametrize("dirty", [False, True])
def test_a_stopped_comparison_goes_on_if_the_code_is_the_same(monkeypatch, tmp_path, dirty):
    monkeypatch.setattr(precision, "check_support", lambda *_: None)
    monkeypatch.setattr(precision, "commit_and_dirty", lambda: ("abc", dirty))
    monkeypatch.setattr(precision.tempfile, "tempdir", str(tmp_path))
    trained = []

    def accuracy(paper, seed, name, small, folder):
        if len(trained) == 4:
            trained.append("stopped")
            raise KeyboardInterrupt
        if not folder.exists():
            trained.append(folder.name)
            folder.mkdir(parents=True)
        return 80.0, 60.0

    monkeypatch.setattr(precision, "accuracy", accuracy)
    with pytest.raises(KeyboardInterrupt):
        precision.difference("subclass", False)
    assert [path.name for path in tmp_path.iterdir()] == ([] if dirty else ["precision-subclass-abc"])
    precision.difference("subclass", False)
    assert len(trained) == 1 + (4 + 6 if dirty else 6) and not [*tmp_path.iterdir()]
