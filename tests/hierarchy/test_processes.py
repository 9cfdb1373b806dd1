"""Two gloo processes against one that runs the same half-batches through batch norm separately."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.method import branches as losses
from hierarchy_cnn_torch.training import evaluate, loop
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.torch_runtime import World

from . import ddp_worker as worker

ALONE = World(0, 1, torch.device("cpu"))


def reference(parts: int):
    """One process; each batch in `parts` shares with their own forward pass and dropout, gradients summed over them.

    The running statistics are those of the first share, as process 0 writes them down.
    """
    data, network, config = worker.make_data(), worker.make_network(), worker.CONFIG
    optimizer = torch.optim.SGD(network.parameters(), config.lr, 0.9, weight_decay=5e-4)
    maps = [torch.from_numpy(table) for table in worker.BRANCHES.labels]
    pixels, labels = torch.from_numpy(data.images[:57]), torch.from_numpy(data.labels[:57])
    history = []
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = loop.learning_rate(config, epoch)
        order = torch.randperm(57, generator=runtime.generator(3, "order", epoch))
        augment, total = images.Augment(3, epoch, 57), 0.0
        network.train()
        for step, batch in enumerate(order.split(16)):
            optimizer.zero_grad()
            for rank in range(parts):
                mine = batch[rank::parts]
                x = images.prepared(augment(pixels[mine], mine), data.mean, data.sd, 32)
                kept = {name: value.clone() for name, value in network.named_buffers()}
                torch.manual_seed(runtime.derive(3, "dropout", epoch, step, rank))
                logits, heads = network(x)
                loss = losses.total_loss(logits, [heads["conv2"], heads["conv3"]], labels[mine], maps, [0.3, 0.3, 1.0])
                (loss / len(batch)).backward()
                total += loss.item()
                if rank:
                    for name, value in network.named_buffers():
                        value.copy_(kept[name])
            optimizer.step()
        val, _ = evaluate.scores_of(network, data.images[data.val], data, config, ALONE)
        right = (val.argmax(1).numpy() == data.labels[data.val]).mean()
        history.append({"train/loss": total / 57, "val/accuracy": float(right)})
    scores, _ = evaluate.scores_of(network, data.test_images, data, config, ALONE)
    return network.state_dict(), history, scores


@pytest.fixture(autouse=True)
def one_thread():
    """As in the two processes: sums over several threads round differently, and training carries that on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(loopback, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [worker.ROOT / "tests" / "hierarchy" / "ddp_worker.py", folder / "two.pt", folder / "run"]
    done = subprocess.run(
        [*launch, *map(str, words)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return torch.load(folder / "two.pt", weights_only=True)


def test_two_processes_equal_one_with_half_batches(two):
    weights, history, scores = reference(2)
    start = worker.make_network().state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert any((value - start[name]).abs().max() > 1e-2 for name, value in weights.items() if "running" not in name)
    np.testing.assert_allclose(
        [row["train/loss"] for row in two["history"]], [row["train/loss"] for row in history], rtol=1e-5
    )
    torch.testing.assert_close(two["scores"], scores, rtol=1e-4, atol=1e-5)  # both processes made half of them
    assert [row["val/accuracy"] for row in two["history"]] == [row["val/accuracy"] for row in history]


def test_whole_batches_through_batch_norm_are_another_training(two):
    """The equality above is not one that any training would pass."""
    weights, _, _ = reference(1)
    assert (two["weights"]["fc6.weight"] - weights["fc6.weight"]).abs().max() > 1e-3
