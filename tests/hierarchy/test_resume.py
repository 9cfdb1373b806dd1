"""A run that is cut off at the end of an epoch goes on to the numbers and the best weights of an undisturbed one."""

from dataclasses import replace

import pytest
import torch

from hierarchy_cnn_torch.training import loop, record
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World

from . import ddp_worker as worker

ALONE = World(0, 1, torch.device("cpu"))


class Killed(Exception):
    """Stands for a SIGKILL: nothing of the loop runs after it."""


# one cycle depends on the step, so a resumed run must know it
FAST = replace(
    worker.CONFIG, lr_schedule="onecycle", label_smoothing=0.1, dropout=0.1, eval_batch=9, channels_last=True
)


def arm(folder, max_steps, flags=worker.CONFIG):
    """History, metrics.jsonl, last and best weights of one start of the run."""
    folder.mkdir(exist_ok=True)
    network, config = worker.make_network(), replace(flags, checkpoint_steps=1, max_steps=max_steps)
    training = loop.run(config, network, worker.make_data(), worker.BRANCHES, ALONE, Stop(), folder)
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    return training.history, read_metrics(folder), network.state_dict(), best


@pytest.fixture(
    scope="module",
    params=[(0, worker.CONFIG), (6, worker.CONFIG), (0, FAST), (6, FAST)],
    ids=["as before", "as before, 6 steps", "fast", "fast, 6 steps"],
)
def undisturbed_run(request, tmp_path_factory):
    """Number of steps (0: all), flags, and what the run without a kill leaves."""
    return *request.param, arm(tmp_path_factory.mktemp("calm"), *request.param)


@pytest.mark.parametrize("name", ["evaluate_epoch", "keep_best", "save"])
def test_a_kill_around_the_end_of_an_epoch(tmp_path, monkeypatch, name, undisturbed_run):
    max_steps, flags, calm = undisturbed_run
    place = loop.Training if name == "save" else loop
    ends, whole = [0], getattr(place, name)

    def killed_once(*args):
        ends[0] += 1
        # of the last epoch's end; of the first best weights; of the state that closes an epoch
        if ends[0] == {"evaluate_epoch": 2, "keep_best": 1, "save": 4}[name]:
            raise Killed
        return whole(*args)

    monkeypatch.setattr(place, name, killed_once)
    with pytest.raises(Killed):
        arm(tmp_path / "killed", max_steps, flags)
    history, lines, weights, best = arm(tmp_path / "killed", max_steps, flags)
    assert history == calm[0] and lines == calm[1] and len(history) == 2
    for mine, undisturbed in ((weights, calm[2]), (best, calm[3])):
        assert all(torch.equal(value, undisturbed[key]) for key, value in mine.items())


def test_an_epoch_that_is_repeated_with_another_accuracy_leaves_no_best_weights_behind(tmp_path, monkeypatch):
    """On a GPU, an epoch that a kill took away may not be the best one any more when it is run again."""
    accuracies, saves, save = iter((0.5, 0.6, 0.4)), [], loop.Training.save

    def evaluated(*_):
        return {"val/accuracy": next(accuracies), "test/accuracy": 0.5}, [torch.zeros(20, dtype=torch.int32)]

    def killed_at_the_second(training):
        saves.append(training.epoch)
        if len(saves) == 2:
            raise Killed
        save(training)

    def run():
        network = worker.make_network()
        return loop.run(worker.CONFIG, network, worker.make_data(), worker.BRANCHES, ALONE, Stop(), tmp_path).history

    monkeypatch.setattr(loop, "evaluate_epoch", evaluated)
    monkeypatch.setattr(loop.Training, "save", killed_at_the_second)
    with pytest.raises(Killed):
        run()
    first = torch.load(next((tmp_path / "checkpoints").glob("state-*.pt")), weights_only=True)["model"]
    assert [row["best"] for row in run()] == [True, False]
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert all(torch.equal(value, first[name]) for name, value in best.items())


class OnGpu(torch.Tensor):
    """A tensor that NumPy cannot read until it is copied to the CPU, as one on a GPU; what is made of it is another."""

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_the_curves_of_a_run_that_went_on_on_a_gpu_are_those_of_one_that_did_not_stop():
    """A state is read to the device, and what an epoch adds afterwards is on the CPU."""
    state = {"gradients": [torch.rand(3, 4), torch.rand(2, 4)], "curve": [torch.arange(5), torch.arange(5) + 1]}
    undisturbed = record.curves_of(state, 2)
    assert undisturbed[0].shape == (2, 5) and undisturbed[1].shape == (5, 2, 2)
    for resumed in (1, 2):  # epochs before the last stop
        on_gpu = {
            name: [part.as_subclass(OnGpu) if at < resumed else part for at, part in enumerate(parts)]
            for name, parts in state.items()
        }
        for found, expected in zip(record.curves_of(on_gpu, 2), undisturbed, strict=True):
            assert found.dtype == expected.dtype and (found == expected).all()
