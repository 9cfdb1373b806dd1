"""channels-last, bf16 and torch.compile against the plain loop: same draws, tolerances that could fail."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from subclass_torch.training.loop import run_stage

from . import ddp_worker as worker


def train(folder, **changes):
    folder.mkdir()
    model = worker.make_model()
    if changes.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)
    world = World(0, 1, torch.device("cpu"))
    training = run_stage(
        worker.make_task(world.device),
        dataclasses.replace(worker.CONFIG, **changes),
        model,
        world,
        Stop(),
        folder,
        folder / "a.csv",
    )
    return (
        [row["loss"] for row in training.history],
        np.array(training.state["degrees"]),
        dict(model.named_parameters()),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "run")


def test_two_runs_are_bit_identical(plain, tmp_path):
    losses, degrees, weights = train(tmp_path / "run")
    assert losses == plain[0] and (degrees == plain[1]).all()
    assert all(torch.equal(value, plain[2][name]) for name, value in weights.items())


def test_channels_last(plain, tmp_path):
    losses, degrees, weights = train(tmp_path / "run", channels_last=True)
    np.testing.assert_allclose(losses, plain[0], rtol=1e-4)
    np.testing.assert_allclose(degrees, plain[1], rtol=1e-2)
    for name, value in weights.items():
        torch.testing.assert_close(value, plain[2][name], rtol=1e-3, atol=1e-4)


def test_bf16(plain, tmp_path):
    losses, degrees, weights = train(tmp_path / "run", amp="bf16")
    np.testing.assert_allclose(losses, plain[0], rtol=0.03)
    assert losses != plain[0]
    np.testing.assert_allclose(degrees, plain[1], rtol=0.3)
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_compile(plain, tmp_path, monkeypatch):
    """With the graph compiler's eager back end: the traced network and the hook on it, without waiting for C++."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses, degrees, weights = train(tmp_path / "run", compile=True)
    np.testing.assert_allclose(losses, plain[0], rtol=1e-4)
    np.testing.assert_allclose(degrees, plain[1], rtol=1e-2)
    for name, value in weights.items():
        torch.testing.assert_close(value, plain[2][name], rtol=1e-3, atol=1e-4)
