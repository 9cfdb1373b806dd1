"""What both stages share: flags, processes, data, run folder; and what a stage trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import datasets
from reproduction.runtime import run_data, torch_states
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.flags import as_dict
from reproduction.runtime.run_folder import Run, Stop, open_run, read_json, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch.data import images
from subclass_torch.data.augment import normalize, tensor_of
from subclass_torch.flags import Config
from subclass_torch.networks import build

WHITENING = 5000  # images that the first layer of the fast network is set from


class Setting:
    """Flags, processes and request to stop; the data, loaded when a stage first needs them."""

    def __init__(self, config: Config, world: World, stop: Stop):
        self.config, self.world, self.stop = config, world, stop
        self.seen = run_data.look_at(as_dict(config))  # before anything is loaded
        self.folder = Path(config.runs_dir) / config.name

    @cached_property
    def data(self) -> images.Images:
        """The data set, loaded at the first use, which rank 0 announces."""
        data = images.load(self.config)
        if self.world.rank == 0:
            print(
                f"{data.name}: {len(data.train_images):,} training and {len(data.test_images):,} test images, "
                f"{len(data.class_names)} classes; device {self.world.device}, {self.world.size} process(es), "
                f"{torch.get_num_threads()} threads"
                + (f", {runtime.precision(self.world.device, self.config.amp)}" if self.config.amp else ""),
                flush=True,
            )
        return data

    @cached_property
    def constants(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32 [channels], on the device."""
        mean, std = (torch.tensor(values, device=self.world.device) for values in (self.data.mean, self.data.std))
        return mean, std

    def network(self, stage: str, outputs: int) -> nn.Module:
        """Builds a fresh network whose weights are a function of seed and stage."""
        torch.manual_seed(runtime.derive(self.config.seed, stage, "weights"))
        network = build.build(self.config.model, self.config.dataset, outputs, self.data.channels)
        if isinstance(network, build.FastVGG):
            mean, std = (constant.cpu() for constant in self.constants)
            some = datasets.sample(self.data.train_images, WHITENING, self.config.dataset)
            network.whiten(normalize(tensor_of(some), mean, std))
        return build.place(network, self.world.device, self.config.channels_last)

    @contextlib.contextmanager
    def opened(self, folder: Path, flags: dict[str, Any]) -> Iterator[Run | None]:
        """Opens a run folder for these flags on rank 0; returns None on the other processes."""
        if self.world.rank != 0:
            yield None
            return
        with open_run(folder, flags, overwrite=self.config.overwrite) as run:
            yield run

    def is_finished(self, opened: Run | None, sources: Sequence[Path] = ()) -> bool:
        """Whether a stage has nothing left to do; rank 0 decides.

        Args:
          opened: the stage's run on rank 0.
          sources: folders of the runs whose results the stage uses.
        Raises:
          UserError: the stage, or a run in `sources`, belongs to other data.
        """

        def digests() -> Mapping[str, str]:
            for folder in sources:
                hint = "run --stage identify --overwrite" if folder.name == "stage1" else "choose another --beside"
                run_data.check_data(folder, self.data.digests, hint)
            return self.data.digests

        return torch_states.decided(
            self.world, lambda: opened is not None and run_data.is_finished(opened, self.seen, digests)
        )


@dataclass(frozen=True)
class Task:
    """What a stage trains and tests.

    Attributes:
      stage: name in seeds and messages.
      images: uint8 [N, H, W, C], on the device.
      labels: int64 [N], the output of each image, on the device.
      test_images: uint8 [M, H, W, C].
      test_labels: int64 [M], classes.
      subclass2class: int64 [S], on the device.
      constants: mean and standard deviation, float32 [channels], on the device.
      criterion: (logits [B, S], labels [B]) -> float32 [B].
      epochs: E.
      lr_at: learning rate of an epoch, counted from 0.
      first_test: first epoch, counted from 1, after which the test split is evaluated.
      observe: measure the neglection degree (labels are classes then).
      best_file: checkpoint of the best epoch; None writes none.
      facts: what that checkpoint contains in addition to weights, epoch and accuracy.
    """

    stage: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    subclass2class: Tensor
    constants: tuple[Tensor, Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]
    epochs: int
    lr_at: Callable[[int], float]
    first_test: int
    observe: bool
    best_file: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.subclass2class.max()) + 1


def run_id(folder: Path, config: Config) -> str:
    """Returns `<dataset>_<model>_<YYYYmmdd_HHMMSS>`, chosen once for a run folder; a resumed run uses it again."""
    path = folder / "id.json"
    if not path.exists():
        name = config.dataset.rpartition("/")[2].replace("folder:", "")
        write_json(path, {"id": f"{name}_{config.model}_{time.strftime('%Y%m%d_%H%M%S')}"})
    return str(read_json(path, "id")["id"])
