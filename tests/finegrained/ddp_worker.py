"""Trains one small network through the real loop. argv: folder, number of devices."""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from finegrained_torch import flags  # noqa: E402
from finegrained_torch.data.images import Items  # noqa: E402
from finegrained_torch.training.loop import train  # noqa: E402
from finegrained_torch.training.modules import MultiHead, Optimization  # noqa: E402
from finegrained_torch.training.setting import Task  # noqa: E402

CONFIG = flags.parse_pipeline(
    "--seed 3 --threads 1 --device cpu --devices 2 --parallel ddp_fork --lr 0.02 --batch_size 16 --max_epochs 2 "
    "--min_epochs 2 --patience 5".split()
)
KEY = (3, "multi")
TRAIN, VAL = np.arange(57), np.arange(57, 87)  # batches of 16, 16, 16 and 9: the halves of the last are unequal


def make_items():
    """87 images of 4 fine and 2 coarse classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (87, 3, 16, 16), dtype=torch.uint8, generator=generator)
    fine = torch.randint(4, (87,), generator=generator)
    return Items(images, fine, fine // 2)


def make_module():
    """The small network, batch norms and two heads."""
    torch.manual_seed(1)
    optimization = Optimization(schedule="cosine", max_epochs=2, key=KEY)
    return MultiHead(
        num_classes=4,
        num_superclasses=2,
        alpha=0.3,
        network="small",
        optimization=optimization,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    items = make_items()
    task = Task("multi", folder, make_module(), (items, TRAIN), (items, VAL), KEY, {"stage": "multi"})
    train(task, dataclasses.replace(CONFIG, devices=int(sys.argv[2])))
