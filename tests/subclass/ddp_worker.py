"""Trains one small stage through the real loop; started alone or by torchrun. argv: output file, folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from reproduction.runtime import torch_runtime as runtime  # noqa: E402
from reproduction.runtime.run_folder import stop_signals  # noqa: E402
from subclass_torch import flags  # noqa: E402
from subclass_torch.method import losses  # noqa: E402
from subclass_torch.networks import build as models  # noqa: E402
from subclass_torch.training.loop import run_stage  # noqa: E402
from subclass_torch.training.setting import Task  # noqa: E402

CONFIG = flags.resolve(
    flags.make_parser().parse_args(
        "--seed 3 --batch_size 16 --data_augmentation --cutout --length 8 --chance-epochs 0".split()
    )
)
CLASSES = 4


def make_task(device):
    """57 images of 4 classes: batches of 16, 16, 16 and 9, so that the halves of the last are unequal."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (57, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (57,), generator=generator)
    constants = torch.tensor([120.0, 121.0, 122.0]), torch.tensor([60.0, 61.0, 62.0])
    return Task(
        stage="stage1",
        images=images.to(device),
        labels=labels.to(device),
        test_images=images,
        test_labels=labels,
        subclass2class=torch.arange(CLASSES, device=device),
        criterion=losses.class_loss,
        constants=constants,
        epochs=2,
        lr_at=lambda epoch: 0.02 / (1 + epoch),
        first_test=1,
        observe=True,
    )


def make_model():
    """A small VGG without dropout."""
    torch.manual_seed(1)
    return models.VGG(CLASSES, (8, "M", 8, "M"), width=16, dropout=0.0)


if __name__ == "__main__":
    runtime.start(0, threads=1)
    with runtime.open_world("cpu") as world, stop_signals() as stop:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        model = make_model()
        training = run_stage(make_task(world.device), CONFIG, model, world, stop, folder, folder / "log.csv")
        torch.save(dict(model.named_buffers()), f"{sys.argv[1]}.statistics{world.rank}")
        if world.rank == 0:
            history = [{k: v for k, v in row.items() if "seconds" not in k} for row in training.history]
            torch.save(
                {"weights": dict(model.named_parameters()), "degrees": training.state["degrees"], "history": history},
                sys.argv[1],
            )
