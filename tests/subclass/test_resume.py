"""A stage that is cut off anywhere around the end of its last epoch goes on to the figures of an undisturbed one."""

import dataclasses

import pytest
import torch

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Stop, read_metrics
from subclass_torch.training import progress
from subclass_torch.training.loop import run_stage

from . import ddp_worker as worker

WORLD = runtime.World(0, 1, torch.device("cpu"))


class Killed(Exception):
    """Stands for a SIGKILL: nothing of the loop runs after it."""


def stage(folder, after_epoch, max_steps):
    """History, metrics.jsonl and weights of one start of the stage."""
    folder.mkdir(exist_ok=True)
    model = worker.make_model()
    task = dataclasses.replace(worker.make_task(WORLD.device), after_epoch=after_epoch)
    config = {**worker.CONFIG, "checkpoint_steps": 1, "max_steps": max_steps}
    p = run_stage(task, config, model, WORLD, Stop(), folder, folder / "log.csv")
    history = [{k: v for k, v in row.items() if "seconds" not in k} for row in p.history]
    lines = [{k: v for k, v in line.items() if "seconds" not in k} for line in read_metrics(folder)]
    return history, lines, model.state_dict()


@pytest.mark.parametrize("max_steps", [0, 6])
@pytest.mark.parametrize("moment", ["in the test", "as the log is written"])
def test_a_kill_between_the_last_step_and_its_epochs_end(tmp_path, monkeypatch, moment, max_steps):
    tested = []

    def after_epoch(p):
        tested.append(p.epoch)
        if moment == "in the test" and tested == [1, 2]:
            raise Killed
        return 0.5

    calm = stage(tmp_path / "calm", lambda p: 0.5, max_steps)
    write_csv = progress.write_csv

    def killed_once(path, history):
        if len(history) == 2:
            monkeypatch.setattr(progress, "write_csv", write_csv)
            raise Killed
        write_csv(path, history)

    if moment != "in the test":
        monkeypatch.setattr(progress, "write_csv", killed_once)
    with pytest.raises(Killed):
        stage(tmp_path / "killed", after_epoch, max_steps)
    history, lines, weights = stage(tmp_path / "killed", after_epoch, max_steps)
    assert history == calm[0] and lines == calm[1] and len(history) == 2
    assert all(torch.equal(value, calm[2][name]) for name, value in weights.items())
