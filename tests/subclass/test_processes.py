"""Two processes against one that runs the same half-batches through batch norm separately."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import World
from subclass_torch.data import augment
from subclass_torch.method import neglect
from subclass_torch.training.evaluate import decisions
from subclass_torch.training.optimizer import optimizer_of
from subclass_torch.training.state import steps_per_epoch

from . import ddp_worker as worker
from .conftest import ROOT, TINY, command

pytestmark = pytest.mark.usefixtures("loopback")


def torchrun(*argv, timeout=200):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, *map(str, argv)], capture_output=True, text=True, env=env, cwd=ROOT, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def reference(parts=2):
    """One process; forward passes of the parts apart, sums of gradients and counts over all before the norms."""
    task, model, config = worker.make_task(torch.device("cpu")), worker.make_model(), worker.CONFIG
    optimizer = optimizer_of(model, task.lr_at(0))
    model.train()
    degrees, losses = [], []
    for epoch in range(task.epochs):
        optimizer.param_groups[0]["lr"] = task.lr_at(epoch)
        order = torch.randperm(57, generator=runtime.generator(config.seed, "stage1", "order", epoch))
        draws = augment.draw(57, 32, 1, runtime.generator(config.seed, "stage1", "augment", epoch))
        kept, total = [[] for _ in range(worker.CLASSES)], 0.0
        for at in range(0, 57, 16):
            batch = order[at : at + 16]
            optimizer.zero_grad()
            seen, logits = [], []
            for half in (batch[rank::parts] for rank in range(parts)):
                x = augment.training_batch(
                    task.images[half], draws.of(half), *task.constants, True, True, config.length
                )
                features = model.penultim_layer(model.features(x.contiguous()).flatten(1))
                z = model.classifier(features)
                loss = task.criterion(z, task.labels[half]).sum() / len(batch)
                loss.backward()
                total += loss.item() * len(batch)
                seen.append(features.detach())
                logits.append(z.detach())
            optimizer.step()
            labels = torch.cat([task.labels[batch[rank::parts]] for rank in range(parts)])
            own, others, count = neglect.gradient_parts(
                torch.cat(seen).double(), torch.sigmoid(torch.cat(logits).double()), labels
            )
            for label, r in enumerate(neglect.degree(own, others).tolist()):
                if count[label]:
                    kept[label].append(r)
        degrees.append([float(np.mean(values)) for values in kept])
        losses.append(total / 57)
    return dict(model.named_parameters()), degrees, losses


@pytest.fixture(scope="module")
def two(loopback, tmp_path_factory):
    """Folder with what two processes found."""
    folder = tmp_path_factory.mktemp("two")
    torchrun(ROOT / "tests" / "subclass" / "ddp_worker.py", folder / "two.pt", folder / "run")
    return folder


def test_two_processes_equal_one_with_half_batches(two):
    found = torch.load(two / "two.pt", weights_only=True)
    weights, degrees, losses = reference()
    moved = worker.make_model().state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(found["weights"][name], value.detach(), rtol=1e-4, atol=2e-6, msg=name)
    assert any((value.detach() - moved[name]).abs().max() > 1e-2 for name, value in weights.items())
    np.testing.assert_allclose(found["degrees"], degrees, rtol=1e-3)
    np.testing.assert_allclose([row["loss"] for row in found["history"]], losses, rtol=1e-5)
    whole, _, _ = reference(parts=1)  # so that this is not an equality that any training would pass
    assert max((found["weights"][name] - value).abs().max() for name, value in whole.items()) > 1e-3


def test_both_processes_test_the_network_of_the_checkpoint(two):
    """After the last step of an epoch each has running statistics of its own half; both must test with the first's."""
    found = torch.load(two / "two.pt", weights_only=True)
    first, second = (torch.load(two / f"two.pt.statistics{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first) and len(first) >= 3
    model, task = worker.make_model(), worker.make_task(torch.device("cpu"))
    model.load_state_dict(found["weights"] | first)
    alone = World(0, 1, torch.device("cpu"))
    decided = decisions(model, task.test_images, task.subclass2class, task.constants, worker.CONFIG, alone)
    accuracy = float((decided == task.test_labels).double().mean())
    assert found["history"][-1]["tst_acc"] == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.parametrize(("count", "batch"), [(3, 128), (100, 3)])
def test_batches_that_leave_a_process_without_images_are_refused(count, batch):
    with pytest.raises(UserError, match=f"--batch_size {batch}: a batch has 3 images at most, too few for 4"):
        steps_per_epoch(count, batch, World(0, 4, torch.device("cpu")))
    assert steps_per_epoch(8, 4, World(0, 4, torch.device("cpu"))) == 2


def test_the_script_under_torchrun(tmp_path):
    flags = [*TINY, "--subclass", "--epochs", "1", "--epochs_class", "1", "--runs-dir", tmp_path, "--name", "two"]
    done = torchrun(*command("notebook.py", *flags)[1:])
    assert done.stdout.count("stage2 epoch 1/1") == 1 and "2 process(es)" in done.stdout
    assert (tmp_path / "two" / "DONE").exists()
    again = torchrun(*command("notebook.py", *flags)[1:])
    assert again.stdout.count("finished before") == 2
