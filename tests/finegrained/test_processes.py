"""Lightning's DDP on two gloo processes against one that runs the same half-batches through batch norm separately."""

import argparse
import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from finegrained_torch.data.images import Batches
from finegrained_torch.training.loop import EpochEnd, train
from finegrained_torch.training.setting import Task
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError

from . import ddp_worker as worker


def reference(parts: int):
    """One process; the shares of a batch have their own forward pass, and the mean of their mean losses is followed.

    The running statistics are those of the first share, as process 0 writes them down.
    """
    items, module, config = worker.make_items(), worker.make_module(), worker.CONFIG
    module.learning_rate = config.lr
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    batches, history = Batches(worker.TRAIN, config.batch_size, worker.KEY), []
    for epoch in range(config.max_epochs):
        module.train()
        batches.set_epoch(epoch)
        total = 0.0
        for batch in batches:
            optimizer.zero_grad()
            for rank in range(parts):
                images, fine, coarse = items[batch[rank::parts]]
                kept = {name: value.clone() for name, value in module.named_buffers()}
                sub, sup = module.logits(images)
                loss = 0.3 * F.cross_entropy(sup, coarse) + 0.7 * F.cross_entropy(sub, fine)
                (loss / parts).backward()
                total += loss.item() * len(fine)
                if rank:
                    for name, value in module.named_buffers():
                        value.copy_(kept[name])
            optimizer.step()
        scheduler.step()
        module.eval()
        with torch.no_grad():
            images, _, coarse = items[torch.from_numpy(worker.VAL)]
            val = F.cross_entropy(module.logits(images)[1], coarse).item()
        history.append({"train_loss": total / len(worker.TRAIN), "val_loss": val})
    return module.state_dict(), history


@pytest.fixture(autouse=True)
def one_thread():
    """As in the two processes: sums over several threads round differently, and training carries that on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder, devices: int):
    words = [worker.ROOT / "tests" / "finegrained" / "ddp_worker.py", folder, devices]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=worker.ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return runtime.read_checkpoint(folder / "state-0002.ckpt")["state_dict"], lines


@pytest.mark.parametrize("devices", [2, 1])
def test_processes_equal_one_with_the_same_shares(loopback, tmp_path, devices):
    found, rows = trained(tmp_path, devices)
    weights, history = reference(devices)
    start = worker.make_module().state_dict()
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert any((value - start[name]).abs().max() > 1e-2 for name, value in weights.items() if "running" not in name)
    for row, expected in zip(rows, history, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    other, _ = reference(3 - devices)  # so that this is not an equality that any training would pass
    assert max((other[name].float() - value.float()).abs().max() for name, value in weights.items()) > 1e-3


def test_a_process_rounds_to_tf32_only_if_the_flags_say_so(tmp_path):
    """A spawned process begins with torch's default, which rounds in convolutions."""
    items, before = worker.make_items(), (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    task = Task("multi", tmp_path, worker.make_module(), (items, worker.TRAIN), (items, worker.VAL), worker.KEY, {})
    try:
        for precision, allowed in (("32-true", False), ("tf32", True), ("bf16-mixed", False)):
            runtime.allow_tf32(not allowed)
            epoch_end = EpochEnd(task, dataclasses.replace(worker.CONFIG, precision=precision), None)
            epoch_end.on_fit_start(argparse.Namespace(is_global_zero=False), task.module)
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_forked_processes_with_a_gpu_are_refused_in_one_line(tmp_path, monkeypatch):
    items = worker.make_items()
    task = Task("multi", tmp_path, worker.make_module(), (items, worker.TRAIN), (items, worker.VAL), worker.KEY, {})
    monkeypatch.setattr(runtime, "pick_device", lambda name: torch.device("cuda", 0))
    with pytest.raises(UserError, match="--parallel ddp_fork: CUDA cannot .* use ddp_spawn"):
        train(task, dataclasses.replace(worker.CONFIG, device="cuda"))


def test_seconds_of_training_leave_validation_out(tmp_path, monkeypatch):
    items, module = worker.make_items(), worker.make_module()
    validation_step, nap = module.validation_step, 0.2

    def slow(*batch):
        time.sleep(nap)
        validation_step(*batch)

    monkeypatch.setattr(module, "validation_step", slow)
    task = Task("multi", tmp_path, module, (items, worker.TRAIN), (items, worker.VAL), worker.KEY, {})
    history = train(task, dataclasses.replace(worker.CONFIG, devices=1)).history
    assert len(history) == 2 and all(0 < row["train_seconds"] <= row["seconds"] - nap for row in history)
