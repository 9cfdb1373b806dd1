"""The resumable loop: whatever interrupts it, the numbers are those of an undisturbed training."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reproduction.runtime import loop
from reproduction.runtime.loop import Training, epoch_ends
from reproduction.runtime.metrics_log import read_metrics
from reproduction.runtime.run_folder import REPO_ROOT, Stop, UserError
from reproduction.runtime.torch_runtime import World, generator, save_state, states_of
from reproduction.runtime.torch_states import States

ALONE = World(0, 1, torch.device("cpu"))
IMAGES, BATCH = 10, 4


class Killed(Exception):
    """Stands for kill -9."""


def train(
    folder: Path,
    epochs: int = 4,
    kill_at: int = -1,
    stop: Stop | None = None,
    stop_at: int = -1,
    bad: int = -1,
    last: int = 0,
    every: int = 0,
) -> tuple[list[dict[str, float]], torch.Tensor, Training]:
    """A linear network on noise, with order and noise as functions of the epoch."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    stop = stop or Stop()
    steps = -(-IMAGES // BATCH)
    training = Training(
        "stage1",
        folder,
        epoch_ends(steps, epochs, last),
        BATCH,
        States(folder, ALONE, {"network": network, "optimizer": optimizer}),
        stop,
        state={"seen": []},
        checkpoint_steps=every,
    )
    for epoch in training.epochs():
        draws = generator(1, epoch)
        order, images = torch.randperm(IMAGES, generator=draws), torch.randn(IMAGES, 3, generator=draws)
        for indices in training.batches(order):
            assert training.step_in_epoch == training.step - 3 * epoch
            if training.step == kill_at:
                raise Killed
            if training.step == stop_at:
                stop.signal_number = signal.SIGTERM
            loss = network(images[indices]).square().mean() * (torch.nan if training.step == bad else 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.state["seen"].append(len(indices))
            training.log(loss, loss_sum=loss * len(indices), images=len(indices))
        row = {"loss": float(training.sums["loss_sum"]) / training.sums["images"]}
        assert training.metrics
        training.metrics.write(epoch + 1, row)
        training.end_epoch(row)
    return training.history, network.weight.detach(), training


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]


@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize("kill_at", range(12))
def test_a_killed_training_ends_with_the_same_bits(tmp_path, kill_at, every):
    history, weight, _ = train(tmp_path / "calm", every=every)
    for extra in (0, 2):  # killed twice
        with pytest.raises(Killed):
            train(tmp_path / "killed", kill_at=min(kill_at + extra, 11), every=every)
    again, same, training = train(tmp_path / "killed", every=every)
    assert again == history and torch.equal(same, weight)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "calm")
    assert training.state["seen"] == [4, 4, 2] * 4 and training.images == 4 * IMAGES
    assert len(states_of(tmp_path / "killed" / "checkpoints")) <= 2


@pytest.mark.parametrize("stop_at", range(12))
def test_a_stop_leaves_after_a_checkpoint_and_goes_on(tmp_path, stop_at, capsys):
    history, weight, _ = train(tmp_path / "calm")
    if stop_at < 11:
        with pytest.raises(SystemExit) as left:
            train(tmp_path / "stopped", stop_at=stop_at)
        assert left.value.code == 128 + signal.SIGTERM
        newest = torch.load(states_of(tmp_path / "stopped" / "checkpoints")[-1], weights_only=True)
        assert newest["position"]["step"] == stop_at + 1
    else:  # the training is over: nothing is left to stop
        train(tmp_path / "stopped", stop_at=stop_at)
    again, same, training = train(tmp_path / "stopped")
    assert again == history and torch.equal(same, weight) and training.resumed
    assert ("going on at epoch" in capsys.readouterr().out) == (stop_at < 11)


@pytest.mark.parametrize("older", [False, True])
def test_steps_are_timed_over_all_starts_without_checkpoints(tmp_path, monkeypatch, older):
    clock, log, save = [0.0], Training.log, States.save

    def slow_step(training: Training, loss: torch.Tensor, **sums: torch.Tensor) -> None:
        log(training, loss, **sums)
        clock[0] += 1

    def slow_save(states: States, position: dict) -> None:
        save(states, position)
        clock[0] += 100

    monkeypatch.setattr(Training, "log", slow_step)
    monkeypatch.setattr(States, "save", slow_save)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(SystemExit):
        train(tmp_path, stop_at=4, every=2)
    if older:  # a state of an earlier version, whose seconds were those of the epoch: it counts from here on
        newest = states_of(tmp_path / "checkpoints")[-1]
        content = torch.load(newest, weights_only=True)
        del content["position"]["images"], content["position"]["epoch_seconds"]
        torch.save(content, newest)
    training = train(tmp_path, every=2)[2]
    assert (training.images, training.seconds) == ((22, 7) if older else (40, 12))
    assert training.images_per_s == training.images / training.seconds and training.epoch_seconds == 0


@pytest.mark.parametrize("last", [1, 3, 4, 11, 12])
def test_the_last_end_is_the_length(tmp_path, last):
    history, _, training = train(tmp_path, last=last)
    assert training.step == last and training.finished
    assert len(history) == -(-last // 3)


def test_epochs_end_after_their_steps_and_with_the_training():
    assert epoch_ends(3, 2) == epoch_ends(3, 2, 6) == epoch_ends(3, 2, 99) == [3, 6]
    assert epoch_ends(3, 2, 5) == [3, 5] and epoch_ends(3, 2, 3) == [3] and epoch_ends(3, 2, 1) == [1]


@pytest.mark.parametrize("waits", [False, True])
def test_a_loss_that_is_not_finite_ends_the_training_and_names_its_step(tmp_path, waits, monkeypatch):
    monkeypatch.setattr(States, "save", States.save)
    original = States.__init__

    def as_on_a_gpu(self, *arguments, **names):
        original(self, *arguments, **names)
        self.waits = waits

    monkeypatch.setattr(States, "__init__", as_on_a_gpu)
    with pytest.raises(UserError, match=r"stage1: non-finite loss at step 4 .*last checkpoint .*state-0000000003.pt"):
        train(tmp_path, bad=4)
    with pytest.raises(UserError, match=r"non-finite loss at step 0 .*no checkpoint yet"):
        train(tmp_path / "other", bad=0)


def test_nothing_waits_for_a_device_within_an_epoch(tmp_path):
    seen: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    states = States(tmp_path, ALONE, {})
    states.waits = True
    training = Training("stage1", tmp_path, [30], 1, states, Stop())
    for _ in training.epochs():
        looks = []
        for _ in training.steps():
            with Count():
                training.log(torch.ones(()), right=torch.ones((), dtype=torch.int64))
            looks.append(len(seen))
        assert not [name for name in seen if "_local_scalar_dense" in name or "nonzero" in name]
        assert training.sums["right"].item() == 30 and training.sums["right"].dtype == torch.float64
        training.end_epoch({})


def test_several_processes_ask_each_other_now_and_then(tmp_path, monkeypatch):
    asked: list[int] = []
    states = States(tmp_path, ALONE._replace(size=2), {})
    monkeypatch.setattr(states, "agreed", lambda answer: bool(asked.append(training.step)))
    training = Training("stage1", tmp_path, [50], 1, states, Stop(), save_every_s=1e9)
    next(training.epochs())
    for _ in training.steps():
        pass
    assert asked == [20, 40]


def test_a_run_does_not_change_its_device_on_the_way(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(tmp_path, stop_at=4)
    before = numbers(tmp_path)
    original = States.load
    monkeypatch.setattr(States, "load", lambda self: (setattr(self, "device", "cuda"), original(self))[1])
    with pytest.raises(UserError, match="computed on cpu, this is cuda.*--overwrite starts anew"):
        train(tmp_path)
    monkeypatch.undo()
    assert numbers(tmp_path) == before and train(tmp_path)[2].finished


def test_a_state_without_its_position_is_damaged(tmp_path):
    save_state(tmp_path / "checkpoints", 3, {"network": {}})
    with pytest.raises(UserError, match="state-0000000003.pt: not a readable checkpoint .not the full state of a run"):
        States(tmp_path, ALONE, {}).load()


def test_an_epoch_that_is_not_closed_is_a_mistake_of_the_loop(tmp_path):
    training = Training("stage1", tmp_path, [1, 2], 1, States(tmp_path, ALONE, {}), Stop())
    with pytest.raises(AssertionError, match="end_epoch"):
        for _ in training.epochs():
            pass


def test_a_later_attempt_counts_on(tmp_path):
    training = Training("attempt 2", tmp_path, [12, 14], 1, States(tmp_path, ALONE, {}), Stop(), start=10)
    taken = []
    for _ in training.epochs():
        taken.append(list(training.batches(list("ab"))))
        training.end_epoch({})
    assert taken == [[["a"], ["b"]], [["a"], ["b"]]] and training.step == 14


def test_the_loop_imports_no_framework():
    code = "import sys, reproduction.runtime.loop; print({'torch', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
