"""Trains one small variant through the real loop; started alone or by torchrun. argv: output file, folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from hierarchy_cnn_torch import flags  # noqa: E402
from hierarchy_cnn_torch.data.images import Data  # noqa: E402
from hierarchy_cnn_torch.method.branches import Branches  # noqa: E402
from hierarchy_cnn_torch.networks import alexnet  # noqa: E402
from hierarchy_cnn_torch.training import evaluate, loop  # noqa: E402
from reproduction.runtime import torch_runtime as runtime  # noqa: E402
from reproduction.runtime.run_folder import stop_signals  # noqa: E402

WORDS = "--stage aware --seed 3 --batch 16 --lr 0.02 --epochs 2 --keep-epochs none --lambda 0.3 --augment crop_flip"
CONFIG = flags.resolve_train(flags.train_parser().parse_args([*WORDS.split(), "--device", "cpu"]))
BRANCHES = Branches(("conv2", "conv3"), (np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])))
TRAIN = np.arange(57)  # batches of 16, 16, 16 and 9, so that the halves of the last are unequal


def make_data():
    """57 training, 30 held-out and 20 test images of 4 classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (107, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, 107)
    return Data(
        images=images[:87],
        labels=labels[:87],
        train=TRAIN,
        val=np.arange(57, 87),
        test_images=images[87:],
        test_labels=labels[87:],
        curve=np.arange(20),
        names=list("abcd"),
        kind=np.zeros(87, np.int8),
        true_labels=labels[:87],
        mean=torch.full((3,), 0.5),
        sd=torch.full((3,), 0.25),
        digests={},
        verified=True,
    )


def make_network():
    """The mini trunk with batch norms, dropout and two branches."""
    return alexnet.Network(alexnet.PRESETS["mini"], 3, 4, BRANCHES.outputs(), bn=True, seed=1, hidden=16)


if __name__ == "__main__":
    evaluate.EVAL_BATCH = 7  # so that both processes evaluate
    runtime.start(0, threads=1)
    with runtime.open_world("cpu") as world, stop_signals() as stop:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        network = make_network()
        training = loop.run(CONFIG, network, make_data(), BRANCHES, world, stop, folder)
        data = make_data()
        scores, _ = evaluate.scores_of(network, data.test_images, data, CONFIG, world)
        if world.rank == 0:
            rows = [{k: float(row[k]) for k in ("train/loss", "val/accuracy")} for row in training.history]
            torch.save({"weights": network.state_dict(), "history": rows, "scores": scores}, sys.argv[1])
