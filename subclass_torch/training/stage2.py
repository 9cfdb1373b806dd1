"""Stage 2, or the plain network: reads the neglected classes, splits them, trains a fresh network, evaluates it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.flags import as_dict
from reproduction.runtime.run_folder import UserError, flags_hash, read_json, shown
from subclass_torch import flags
from subclass_torch.data import augment
from subclass_torch.data.augment import tensor_of
from subclass_torch.data.images import SIZE
from subclass_torch.flags import Config
from subclass_torch.method import losses, partition
from subclass_torch.training import record
from subclass_torch.training.evaluate import decisions, load_network
from subclass_torch.training.loop import run_stage
from subclass_torch.training.optimizer import learning_rate
from subclass_torch.training.setting import Setting, Task, run_id

# not in the flags that a checkpoint carries: places of this machine
PLACES = {"data_dir", "runs_dir", "beside", "neglected", "argv", "eval", "name"}


def neglected_file(setting: Setting) -> Path:
    """Finds the file that names the neglected classes.

    Raises:
      UserError: stage 1 has not run (the message holds its command), or it has run with other flags than this run's.
    """
    config, folder = setting.config, setting.folder / "stage1"
    if config.neglected:
        return Path(config.neglected)
    files = sorted((folder / "logs").glob("*_neglected.json")) if (folder / "DONE").exists() else []
    if not files:
        command = flags.identify_command("notebook.py", config.argv)
        raise UserError(f"{shown(folder)}: stage 1 has not finished there; run: {command}")
    if read_json(folder / "DONE", "").get("flags") != flags_hash(flags.of_run(config, stage1=True)):
        raise UserError(
            f"{shown(folder)}: holds a stage 1 with other flags than these; give the flags that it had, choose another "
            f"--name, or take its classes as they are: --neglected {shown(files[-1])}"
        )
    return files[-1]


def neglected_classes(path: Path, count: int) -> tuple[list[int], list[float]]:
    """Reads the `count` most neglected classes, and theta of all, from a file of stage 1.

    Raises:
      UserError: the file holds no ranking.
    """
    content = read_json(path)
    ranking, theta = (content.get(key) for key in ("ranking", "theta")) if isinstance(content, dict) else (None, None)
    if not isinstance(ranking, list) or not isinstance(theta, list) or len(theta) != len(ranking):
        raise UserError(f"{shown(path)}: holds no ranking of classes (--stage identify writes one)")
    if sorted(ranking, key=str) != sorted(range(len(ranking)), key=str):
        raise UserError(f"{shown(path)}: its ranking does not name each class once")
    return ranking[:count], theta


def wraps(config: Config) -> bool:
    """Whether the sums of two images wrap at 256; a copy is an image mixed with itself and must stay what it is."""
    return config.mixing == "wrap" and config.copies == "mixed"


def random_classes(neglected: list[int], classes: int) -> list[int]:
    """As many of the other classes as there are neglected ones; the same for every seed."""
    others = [label for label in range(classes) if label not in neglected]
    picked = torch.randperm(len(others), generator=runtime.generator("random classes"))
    return [others[i] for i in picked[: len(neglected)].tolist()]


def split_classes(setting: Setting, neglected: list[int]) -> partition.Partition:
    """Augments and splits the neglected classes; every draw depends on (seed, class) alone. Deviation: SDN-D11.

    Raises:
      UserError: a class does not exist, or has too few images.
    """
    config, data = setting.config, setting.data
    mean, std = (constant.cpu() for constant in setting.constants)

    def view(label: int, pixels: np.ndarray, place: np.ndarray) -> np.ndarray:
        batch = tensor_of(pixels)
        if config.kmeans_view == "plain":  # DEVIATION SDN-D12: pixels as they are, not one random training view
            return augment.normalize(batch, mean, std).numpy()
        doubled = 2 * int((data.train_labels == label).sum())
        generator = runtime.generator(config.seed, "partition", "view", label)
        draws = augment.draw(doubled, SIZE, config.n_holes, generator).of(torch.from_numpy(place))
        crop, cutout, length = config.data_augmentation, config.cutout, config.length
        return augment.training_batch(batch, draws, mean, std, crop, cutout, length).numpy()

    def partners(label: int, wanted: int) -> np.ndarray:
        if config.copies != "mixed":
            return np.flatnonzero(data.train_labels == label)  # mixed with itself an image stays as it is
        # DEVIATION SDN-D11: partners are seeded
        generator = runtime.generator(config.seed, "partition", "partners", label)
        return torch.randint(0, len(data.train_images), (wanted,), generator=generator).numpy()

    try:
        parts = partition.make_partition(
            data.train_images,
            data.train_labels,
            neglected,
            config.numSubclassesPerClass,
            len(data.class_names),
            view,
            partners,
            wrap=wraps(config),
        )
    except ValueError as error:
        raise UserError(error) from error
    runtime.set_threads(config.threads)  # scikit-learn changes torch's thread count
    none = np.empty(0, np.int64)
    return replace(parts, source=none, partner=none, mixed_labels=none) if config.copies == "none" else parts


def train(setting: Setting) -> None:
    """Trains a fresh network on the subclasses, or on the classes without --subclass, unless that has finished."""
    config, world, folder, method = setting.config, setting.world, setting.folder, setting.config.subclass
    run_flags = flags.of_run(config, stage1=False)
    neglected: list[int] = []
    theta: list[float] = []
    sources = [Path(config.beside)] if config.beside and method else []
    if (method or config.neglected) and config.numClasses2Repartition:
        source = neglected_file(setting)
        neglected, theta = neglected_classes(source, config.numClasses2Repartition)
        run_flags["neglected_classes"] = neglected
        if not config.neglected:
            sources.append(setting.folder / "stage1")
    with setting.opened(folder, run_flags) as opened:
        if setting.is_finished(opened, sources):
            return
        data = setting.data
        classes = len(data.class_names)
        if theta and len(theta) != classes:
            raise UserError(f"{shown(source)}: ranks {len(theta)} classes, the data set has {classes}")
        class_names = list(data.class_names)
        if theta and read_json(source).get("class_names", class_names) != class_names:
            raise UserError(f"{shown(source)}: ranks other classes than those of {data.name}: its class_names differ")
        if method and config.beside:
            record.read_beside(config.beside, classes)  # an error now, not after the training
        others = random_classes(neglected, classes) if config.neglected else []
        chosen = others if config.repartition == "random" else neglected
        parts = split_classes(setting, chosen if method else [])  # DEVIATION SDN-D15: none is allowed, S = C
        if opened and method:
            record.write_partition(folder, parts)
        pixels, labels = partition.training_set(data.train_images, parts, wrap=wraps(config))
        name = run_id(folder, config) if opened else ""
        subclass2class = torch.from_numpy(parts.subclass2class).to(world.device)
        model = setting.network("stage2", len(subclass2class))
        criterion: Callable[[Tensor, Tensor], Tensor]
        if method:  # DEVIATION SDN-D01: --subclass is read
            weights = losses.label_weights(subclass2class, config.subclass_label_weight)
            criterion = functools.partial(losses.subclass_loss, weights=weights)
        else:
            criterion = losses.softmax_loss if config.baseline_loss == "softmax" else losses.class_loss
        facts = {
            "subclass2class": torch.from_numpy(parts.subclass2class),
            "neglected": neglected,
            "args": {key: value for key, value in as_dict(config).items() if key not in PLACES},
            "class_names": class_names,
            "mean": list(data.mean),
            "std": list(data.std),
        }
        best_file = folder / "checkpoints" / f"{name}.pt"
        task = Task(
            stage="stage2",
            images=tensor_of(pixels).to(world.device),
            labels=tensor_of(labels).to(world.device),
            test_images=tensor_of(data.test_images),
            test_labels=tensor_of(data.test_labels),
            subclass2class=subclass2class,
            constants=setting.constants,
            criterion=criterion,
            epochs=config.epochs,
            lr_at=lambda epoch: learning_rate(epoch, config.learning_rate, config.milestones, config.gamma),
            first_test=1,
            observe=False,
            best_file=best_file,
            facts=facts,
        )
        training = run_stage(task, config, model, world, setting.stop, folder, folder / "logs" / f"{name}.csv")
        if opened:

            def decided(network: nn.Module) -> np.ndarray:
                alone = world._replace(size=1)  # the other processes have finished
                return decisions(network, task.test_images, subclass2class, task.constants, config, alone).numpy()

            at_end = decided(model)
            best = last = confusion_counts(data.test_labels, at_end, classes)
            epochs = len(training.history)
            record.write_network(best_file.with_name(f"{name}_last.pt"), model, facts, epochs, record.accuracy(last))
            if training.state["best_epoch"] != epochs:
                network = load_network(best_file, world.device)[0]
                best = confusion_counts(data.test_labels, decided(network), classes)
            outcome = record.Outcome(training, parts, theta, last, best, at_end, neglected, others)
            opened.finish(
                record.stage2_record(config, data, world, outcome, folder, name),
                lambda: record.draw_stage2(config, data, outcome, folder),
            )
