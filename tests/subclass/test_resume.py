"""A stage that is cut off anywhere around the end of its last epoch goes on to the numbers of an undisturbed one."""

import contextlib
import dataclasses
import signal

import pytest
import torch

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime import torch_states
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import Stop, UserError
from reproduction.runtime.torch_runtime import states_of
from subclass_torch.networks import build
from subclass_torch.training import loop, record
from subclass_torch.training.loop import run_stage

from . import ddp_worker as worker

WORLD = runtime.World(0, 1, torch.device("cpu"))


class Killed(Exception):
    """Stands for a SIGKILL: nothing of the loop runs after it."""


def stage(folder, max_steps, schedule="steps"):
    """History, metrics.jsonl and weights of one start of the stage."""
    folder.mkdir(exist_ok=True)
    model = worker.make_model()
    task = dataclasses.replace(worker.make_task(WORLD.device), first_test=1)
    config = dataclasses.replace(worker.CONFIG, checkpoint_steps=1, max_steps=max_steps, schedule=schedule)
    training = run_stage(task, config, model, WORLD, Stop(), folder, folder / "log.csv")
    history = [{k: v for k, v in row.items() if "seconds" not in k} for row in training.history]
    lines = [{k: v for k, v in line.items() if "seconds" not in k} for line in read_metrics(folder)]
    return history, lines, model.state_dict()


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("place", ["decisions", "write_network", "write_csv", "save_state"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_best_file_is_the_recorded_one(tmp_path, monkeypatch, place, number, every, stop):
    """As on a GPU, where an epoch that is run again after a kill may have another accuracy."""
    accuracies, weights, signals, calls = {1: 10, 2: 20, 3: 30, 4: 15}, {}, Stop(), []
    task = dataclasses.replace(worker.make_task(WORLD.device), first_test=1, epochs=4)
    facts = dict.fromkeys(record.CHECKPOINT_KEYS - {"state_dict", "epoch", "accuracy"}, 0)
    task = dataclasses.replace(task, facts=facts, best_file=tmp_path / "best.pt")
    config = dataclasses.replace(worker.CONFIG, checkpoint_steps=every)

    def train():
        model = worker.make_model()
        return run_stage(task, config, model, WORLD, signals, tmp_path, tmp_path / "log.csv")

    def decisions(model, images, *_):
        epoch = next(e for e in (1, 2, 3, 4) if e not in tested)
        tested.append(epoch)
        weights[epoch] = {name: value.clone() for name, value in build.state_of(model).items()}
        wrong = torch.arange(len(images)) >= accuracies[epoch]
        return torch.where(wrong, -1, task.test_labels)

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            if not stop:
                raise Killed
            signals.signal_number = signal.SIGTERM
        return original(*arguments)

    monkeypatch.setattr(loop, "decisions", decisions)
    module = {"decisions": loop, "save_state": torch_states}.get(place, record)
    original, tested = getattr(module, place), []
    with monkeypatch.context() as patch, contextlib.suppress(Killed, SystemExit):
        patch.setattr(module, place, killed)
        train()
    states = states_of(tmp_path / "checkpoints")
    done = torch.load(states[-1], weights_only=True)["position"]["epoch"] if states else 0
    signals.signal_number, tested = 0, list(range(1, done + 1))
    accuracies.update({epoch: 16 + epoch for epoch in range(done + 1, 5)})
    state = train().state
    file = torch.load(tmp_path / "best.pt", weights_only=True)
    assert (file["epoch"], file["accuracy"]) == (state["best_epoch"], state["best_accuracy"])
    assert file["accuracy"] == max(accuracies.values()) / 57 and tested == [1, 2, 3, 4]
    assert all(torch.equal(value, weights[file["epoch"]][name]) for name, value in file["state_dict"].items())


@pytest.mark.parametrize("max_steps", [0, 6])
@pytest.mark.parametrize("moment", ["in the test", "as the log is written"])
@pytest.mark.parametrize("schedule", ["steps", "onecycle"])
def test_a_kill_between_the_last_step_and_its_epochs_end(tmp_path, monkeypatch, moment, max_steps, schedule):
    calm = stage(tmp_path / "calm", max_steps, schedule)
    module, name = (loop, "decisions") if moment == "in the test" else (record, "write_csv")
    original, calls = getattr(module, name), []

    def killed_once(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(module, name, killed_once)
    with pytest.raises(Killed):
        stage(tmp_path / "killed", max_steps, schedule)
    history, lines, weights = stage(tmp_path / "killed", max_steps, schedule)
    assert history == calm[0] and lines == calm[1] and len(history) == 2
    assert all(torch.equal(value, calm[2][name]) for name, value in weights.items())


def test_a_last_update_that_loses_the_network_is_one_line_and_no_state(tmp_path):
    """The loss of a step is taken before its update, so the last one of a training cannot show it."""
    task = dataclasses.replace(worker.make_task(WORLD.device), epochs=1, lr_at=lambda epoch: 1e30)
    config = dataclasses.replace(worker.CONFIG, batch_size=len(task.labels))  # one step
    with pytest.raises(UserError, match="^the scores of the network are not finite; .* --learning_rate below 0.1$"):
        run_stage(task, config, worker.make_model(), WORLD, Stop(), tmp_path, tmp_path / "log.csv")
    assert not list(tmp_path.rglob("*.pt"))
