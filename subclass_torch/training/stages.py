"""The two stages: what each trains, what it writes, and how stage 1 hands the neglected classes to stage 2."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproduction.runtime import run_data
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Run, Stop, UserError, open_run, read_json, shown, stop_signals, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch import flags
from subclass_torch.data import augment, images
from subclass_torch.method import losses, partition
from subclass_torch.networks import build as models
from subclass_torch.training import evaluate
from subclass_torch.training import record as results
from subclass_torch.training.loop import Task, learning_rate, run_stage
from subclass_torch.training.progress import Progress

STAGE1_MILESTONES, STAGE1_GAMMA = [10, 20, 30], 0.2  # authors' notebook.py; not reached in 10 epochs


class Setting:
    """What both stages share: flags, processes, and the data, loaded when a stage first needs it."""

    def __init__(self, config: dict[str, Any], world: World, stop: Stop):
        self.config, self.world, self.stop = config, world, stop
        self.seen = run_data.look_at(config)  # before anything is loaded
        self.folder = Path(config["runs_dir"]) / config["name"]

    @cached_property
    def data(self) -> images.Images:
        data = images.load(self.config)
        if self.world.rank == 0:
            print(
                f"{data.name}: {len(data.train_images):,} training and {len(data.test_images):,} test images, "
                f"{len(data.class_names)} classes; device {self.world.device}, {self.world.size} process(es), "
                f"{torch.get_num_threads()} threads",
                flush=True,
            )
        return data

    @cached_property
    def constants(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=self.world.device) for values in (self.data.mean, self.data.std))
        return mean, std

    def network(self, stage: str, outputs: int) -> nn.Module:
        """A fresh network whose weights are a function of seed and stage."""
        torch.manual_seed(runtime.derive(self.config["seed"], stage, "weights"))
        net = models.build(self.config["model"], self.config["dataset"], outputs, self.data.channels)
        net = net.to(self.world.device)
        return net.to(memory_format=torch.channels_last) if self.config["channels_last"] else net

    def confusion(self, model: nn.Module, subclass2class: Tensor, world: World | None = None) -> Tensor:
        data = self.data
        return evaluate.confusion(
            model, evaluate.tensor_of(data.test_images), evaluate.tensor_of(data.test_labels), subclass2class,
            len(data.class_names), self.constants, self.config, world or self.world,
        )  # fmt: skip

    @contextlib.contextmanager
    def opened(self, folder: Path, config: dict[str, Any]) -> Iterator[Run | None]:
        """The run folder on rank 0, None on the others; the body runs unless the stage has finished."""
        if self.world.rank != 0:
            yield None
            return
        with open_run(folder, config, overwrite=self.config["overwrite"]) as run:
            yield run

    def is_finished(self, opened: Run | None, sources: Sequence[Path] = ()) -> bool:
        """Whether a stage has nothing left to do; rank 0 decides.

        Args:
          opened: the stage's run on rank 0.
          sources: folders of the runs whose results the stage takes over.
        Raises:
          UserError: the stage, or a run that it takes over from, belongs to other data.
        """

        def digests() -> Mapping[str, str]:
            for folder in sources:
                hint = "run --stage identify --overwrite" if folder.name == "stage1" else "choose another --beside"
                run_data.check_data(folder, self.data.digests, hint)
            return self.data.digests

        return runtime.decided(
            self.world, lambda: opened is not None and run_data.is_finished(opened, self.seen, digests)
        )


def run(config: dict[str, Any]) -> None:
    """The whole of notebook.py after its flags are resolved."""
    # DEVIATION SDN-D25: everything is seeded, not torch alone
    runtime.start(config["seed"], config["threads"], config["deterministic"])
    with runtime.open_world(config["device"]) as world, stop_signals() as stop:  # DEVIATION SDN-D23: device is a flag
        if config["eval"]:
            results.print_evaluation(config, world)
            return
        setting = Setting(config, world, stop)
        if config["subclass"] and config["stage"] != "train":
            identify(setting)
            runtime.agreed(world, False)  # the other processes read what the first one wrote
        if config["stage"] != "identify":
            runtime.set_threads(config["threads"])
            train(setting)


def run_id(folder: Path, config: dict[str, Any]) -> str:
    """`<dataset>_<model>_<YYYYmmdd_HHMMSS>`, made once for a run folder and kept for its resumes."""
    path = folder / "id.json"
    if not path.exists():
        name = config["dataset"].rpartition("/")[2].replace("folder:", "")
        write_json(path, {"id": f"{name}_{config['model']}_{time.strftime('%Y%m%d_%H%M%S')}"})
    return str(read_json(path, "id")["id"])


def identify(setting: Setting) -> None:
    """Stage 1: trains the plain network for a few epochs and ranks the classes by neglection degree."""
    config, world, folder = setting.config, setting.world, setting.folder / "stage1"
    with setting.opened(folder, flags.of_run(config, stage1=True)) as opened:
        if setting.is_finished(opened):
            return
        data = setting.data
        classes = len(data.class_names)
        name = run_id(folder, config) if opened else ""
        subclass2class = torch.arange(classes, device=world.device)
        # DEVIATION SDN-D04: one optimizer, the schedule attached to it
        milestones = STAGE1_MILESTONES if config["stage1_lr"] == "scheduled" else []
        model = setting.network("stage1", classes)
        matrix: list[Tensor] = []

        def after_epoch(p: Progress) -> float | None:
            if p.epoch < config["epochs_class"] and not config["max_steps"]:
                return None  # stage 1 is tested once, at its end
            matrix[:] = [setting.confusion(model, subclass2class)]
            return evaluate.accuracy(matrix[0])

        task = Task(
            stage="stage1",
            images=evaluate.tensor_of(data.train_images).to(world.device),
            labels=evaluate.tensor_of(data.train_labels).to(world.device),
            subclass2class=subclass2class,
            criterion=losses.class_loss,
            constants=setting.constants,
            epochs=config["epochs_class"],
            lr_at=lambda epoch: learning_rate(epoch, config["learning_rate"], milestones, STAGE1_GAMMA),
            observe=True,
            after_epoch=after_epoch,
        )
        p = run_stage(task, config, model, world, setting.stop, folder, folder / "logs" / f"{name}.csv")
        if opened:
            last = matrix[0] if matrix else setting.confusion(model, subclass2class)
            opened.finish(
                results.stage1_record(config, data, world, p, folder, name, last.numpy()),
                lambda: results.draw_stage1(config, data, p, folder),
            )


def neglected_file(setting: Setting) -> Path:
    """The file that names the neglected classes.

    Raises:
      UserError: stage 1 has not run; the message holds its command.
    """
    if setting.config["neglected"]:
        return Path(setting.config["neglected"])
    folder = setting.folder / "stage1"
    found = sorted((folder / "logs").glob("*_neglected.json")) if (folder / "DONE").exists() else []
    if not found:
        argv = [word for word in setting.config["argv"] if word != "--overwrite"]
        words = shlex.join(["python", "subclass_torch/notebook.py", *argv, "--stage", "identify"])
        raise UserError(f"{shown(folder)}: stage 1 has not finished there; run: {words.replace('--stage train ', '')}")
    return found[-1]


def neglected_classes(path: Path, count: int) -> tuple[list[int], list[float]]:
    """The `count` most neglected classes and theta of all, from a file of stage 1.

    Raises:
      UserError: the file holds no ranking.
    """
    content = read_json(path)
    ranking, theta = (content.get(key) for key in ("ranking", "theta")) if isinstance(content, dict) else (None, None)
    if not isinstance(ranking, list) or not isinstance(theta, list) or len(theta) != len(ranking):
        raise UserError(f"{shown(path)}: holds no ranking of classes (made by --stage identify)")
    if sorted(ranking, key=str) != sorted(range(len(ranking)), key=str):
        raise UserError(f"{shown(path)}: its ranking does not name each class once")
    return ranking[:count], theta


def make_partition(setting: Setting, neglected: list[int]) -> partition.Partition:
    """Augments and splits the neglected classes; every draw depends on (seed, class) alone. Deviation: SDN-D11."""
    config, data = setting.config, setting.data
    seed, count = config["seed"], len(data.train_images)
    mean, std = (constant.cpu() for constant in setting.constants)

    def view(label: int, pixels: np.ndarray, place: np.ndarray) -> np.ndarray:
        batch = evaluate.tensor_of(pixels)
        if config["kmeans_view"] == "plain":  # DEVIATION SDN-D12: pixels as they are, not one random training view
            return augment.normalize(batch, mean, std).numpy()
        doubled = 2 * int((data.train_labels == label).sum())
        generator = runtime.generator(seed, "partition", "view", label)
        draws = augment.draw(doubled, images.SIZE, config["n_holes"], generator).of(torch.from_numpy(place))
        crop, cutout, length = config["data_augmentation"], config["cutout"], config["length"]
        return augment.training_batch(batch, draws, mean, std, crop, cutout, length).numpy()

    def partners(label: int, wanted: int) -> np.ndarray:
        generator = runtime.generator(seed, "partition", "partners", label)  # DEVIATION SDN-D11: partners are seeded
        return torch.randint(0, count, (wanted,), generator=generator).numpy()

    made = partition.make_partition(
        data.train_images, data.train_labels, neglected, config["numSubclassesPerClass"], len(data.class_names),
        view, partners, wrap=config["mixing"] == "wrap",
    )  # fmt: skip
    runtime.set_threads(config["threads"])  # scikit-learn changes torch's thread count
    return made


def train(setting: Setting) -> None:
    """Stage 2, or the baseline without --subclass: trains a fresh network on the subclasses and evaluates it."""
    config, world, folder = setting.config, setting.world, setting.folder
    method = config["subclass"]
    count = config["numClasses2Repartition"] if method else 0
    run_config = flags.of_run(config, stage1=False)
    neglected: list[int] = []
    theta: list[float] = []
    if method and count:
        source = neglected_file(setting)
        neglected, theta = neglected_classes(source, count)
        run_config["neglected_classes"] = neglected
    sources = [Path(config["beside"])] if config["beside"] and method else []
    if neglected and not config["neglected"]:
        sources.append(setting.folder / "stage1")
    with setting.opened(folder, run_config) as opened:
        if setting.is_finished(opened, sources):
            return
        data = setting.data
        classes = len(data.class_names)
        if theta and len(theta) != classes:
            raise UserError(f"{shown(source)}: ranks {len(theta)} classes, the data set has {classes}")
        if method and config["beside"]:
            results.read_beside(config["beside"], classes)  # an error now, not after the training
        made = make_partition(setting, neglected)  # DEVIATION SDN-D15: none is allowed, S = C
        if opened and method:
            results.write_partition(folder, made)
        pixels, labels = partition.training_set(data.train_images, made, wrap=config["mixing"] == "wrap")
        name = run_id(folder, config) if opened else ""
        subclass2class = torch.from_numpy(made.subclass2class).to(world.device)
        stage = "stage2" if method else "baseline"
        model = setting.network("stage2", len(subclass2class))
        weights = losses.label_weights(subclass2class, config["subclass_label_weight"])

        def subclass_criterion(logits: Tensor, truth: Tensor) -> Tensor:
            return losses.subclass_loss(logits, truth, weights)

        plain = losses.softmax_loss if config["baseline_loss"] == "softmax" else losses.class_loss
        facts = {
            "subclass2class": torch.from_numpy(made.subclass2class), "neglected": neglected, "args": portable(config),
            "class_names": list(data.class_names), "mean": list(data.mean), "std": list(data.std),
        }  # fmt: skip
        best_file = folder / "checkpoints" / f"{name}.pt"

        matrices: dict[str, Tensor] = {}

        def after_epoch(p: Progress) -> float:
            matrices["last"] = setting.confusion(model, subclass2class)
            accuracy = evaluate.accuracy(matrices["last"])
            if accuracy > p.best_accuracy:  # DEVIATION SDN-D21: chosen on the test split, so the last is reported too
                p.best_accuracy, p.best_epoch = accuracy, p.epoch
                matrices["best"] = matrices["last"]
                if opened:  # DEVIATION SDN-D22: with the subclass map
                    content = evaluate.pack(model, **facts, epoch=p.epoch, accuracy=accuracy)
                    runtime.write_checkpoint(best_file, content)
            return accuracy

        task = Task(
            stage="stage2",
            images=evaluate.tensor_of(pixels).to(world.device),
            labels=evaluate.tensor_of(labels).to(world.device),
            subclass2class=subclass2class,
            criterion=subclass_criterion if method else plain,  # DEVIATION SDN-D01: --subclass is read
            constants=setting.constants,
            epochs=config["epochs"],
            lr_at=lambda epoch: learning_rate(epoch, config["learning_rate"], config["milestones"], config["gamma"]),
            observe=False,
            after_epoch=after_epoch,
        )
        p = run_stage(task, config, model, world, setting.stop, folder, folder / "logs" / f"{name}.csv")
        if opened:
            alone = world._replace(size=1)  # a resumed run lacks matrices of earlier epochs; rank 0 makes them
            last = matrices["last"] if "last" in matrices else setting.confusion(model, subclass2class, alone)
            content = evaluate.pack(model, **facts, epoch=p.epoch, accuracy=evaluate.accuracy(last))
            runtime.write_checkpoint(best_file.with_name(f"{name}_last.pt"), content)
            if "best" not in matrices:
                best_model, _ = evaluate.load_network(best_file, world.device)
                matrices["best"] = setting.confusion(best_model, subclass2class, alone)
            best = matrices["best"]
            outcome = results.Outcome(stage, p, made, theta, last.numpy(), best.numpy())
            opened.finish(
                results.stage2_record(config, data, world, outcome, folder, name),
                lambda: results.draw_stage2(config, data, outcome, folder),
            )


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The flags a checkpoint carries: plain values, no places of this machine."""
    left_out = {"data_dir", "runs_dir", "beside", "neglected", "argv", "eval", "name"}
    return {key: value for key, value in config.items() if key not in left_out}
