"""Decisions on the test split; trained networks, read back from a checkpoint and evaluated by --eval."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import World, read_checkpoint
from subclass_torch.data import images
from subclass_torch.data.augment import normalize, tensor_of
from subclass_torch.flags import SINCE, Config
from subclass_torch.method.losses import decide
from subclass_torch.networks import build
from subclass_torch.training import record


@torch.no_grad()
def decisions(
    model: nn.Module,
    images: Tensor,
    subclass2class: Tensor,
    constants: tuple[Tensor, Tensor],
    config: Config,
    world: World,
) -> Tensor:
    """Returns the predicted class of each image, int64 [M], on the CPU; the batches are divided among the processes.

    Raises:
      UserError: a score is not finite; the loss of a step, taken before its update, shows that too late.
    """
    model.eval()
    decided = torch.zeros(len(images), dtype=torch.int64, device=world.device)
    batch = config.eval_batch or config.batch_size
    for at in range(world.rank * batch, len(images), world.size * batch):
        inputs = normalize(images[at : at + batch].to(world.device), *constants)
        with runtime.autocast(world.device, config.amp):
            logits = model(inputs if config.channels_last else inputs.contiguous())
        finite = logits.isfinite().all(dim=1)
        decided[at : at + batch] = torch.where(finite, decide(logits.float(), subclass2class), -1)
    runtime.reduce_sum(world, decided)
    if (decided < 0).any():  # on every process alike
        raise UserError(
            f"the scores of the network are not finite; train it with --learning_rate below {config.learning_rate:g}"
        )
    return decided.cpu()


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuilds the network of a checkpoint, in evaluation mode.

    Args:
      path: a checkpoint, or a run folder, of which the best checkpoint is loaded.
      device: device of the returned network.
    Returns:
      The network and the rest of the checkpoint.
    Raises:
      UserError: no checkpoint, or one without its subclass map (the authors save a bare state_dict).
    """
    path = Path(path)
    if path.is_dir():
        files = sorted((path / "checkpoints").glob("*.pt"))
        states = runtime.states_of(path / "checkpoints")
        files = [file for file in files if not file.stem.endswith("_last") and file not in states]
        if not files:
            raise UserError(f"{shown(path)}: holds no checkpoint (checkpoints/<id>.pt)")
        path = files[-1]
    content = read_checkpoint(path, device)
    if not isinstance(content, dict) or "subclass2class" not in content:
        raise UserError(
            f"{shown(path)}: has no subclass map (subclass2class); only checkpoints of this repository can be evaluated"
        )
    if missing := record.CHECKPOINT_KEYS - content.keys():
        raise UserError(f"{shown(path)}: lacks {', '.join(sorted(missing))}")
    try:
        args, weights = content["args"], content["state_dict"]
        if len(content["subclass2class"]) > sum(value.numel() for value in weights.values()):
            raise ValueError(f"{len(content['subclass2class'])} subclasses")  # before a network of that size is made
        if not all(isinstance(name, str) for name in content["class_names"]):
            raise ValueError("a class name that is no text")
        model = build.build(args["model"], args["dataset"], len(content["subclass2class"]), len(content["mean"]))
        model.load_state_dict(weights)
        channels_last = args["channels_last"]
    except Exception as error:  # any entry may be of any kind: the file is another program's
        raise UserError(f"{shown(path)}: weights do not fit ({first_line(error)})") from None
    content["path"] = path
    return build.place(model, device, channels_last).eval(), content


def evaluate_checkpoint(config: Config, world: World) -> None:
    """--eval CHECKPOINT: prints the accuracy on the whole test split, which must be the logged one.

    Raises:
      UserError: bad checkpoint, or a data set with other classes.
    """
    model, content = load_network(Path(config.eval or ""), world.device)
    names = ("dataset", "subset", "batch_size", "amp", "channels_last", "eval_batch", "holdout")
    args = SINCE | content["args"]
    settings = dataclasses.replace(config, **{name: args[name] for name in names}, subclass=False)
    runtime.allow_tf32(settings.amp == "tf32")
    data = images.load(settings)
    classes = len(data.class_names)
    if classes != len(content["class_names"]):
        raise UserError(
            f"--eval: the checkpoint knows {len(content['class_names'])} classes, {data.name} has {classes}"
        )
    mean, std = (torch.tensor(content[key], device=world.device) for key in ("mean", "std"))
    subclass2class = content["subclass2class"].to(world.device)
    decided = decisions(model, tensor_of(data.test_images), subclass2class, (mean, std), settings, world)
    if world.rank != 0:
        return
    matrix = confusion_counts(data.test_labels, decided.numpy(), classes)
    accuracy, logged = record.accuracy(matrix), content["accuracy"]
    record.print_classes(range(classes), record.class_accuracy(matrix), content["neglected"], data.class_names)
    same = "equal to" if accuracy == logged else "differs from"
    print(
        f"CCR {100 * accuracy:.4f} % on {int(matrix.sum()):,} test images of {data.name}, {same} the logged "
        f"{100 * logged:.4f} % (epoch {content['epoch']})"
    )
    if accuracy != logged and world.device.type == "cuda" and not settings.deterministic:
        print("on a GPU the class of a few images may change from run to run; --deterministic excludes that")
    elif accuracy != logged:
        raise UserError("--eval: other data, device or library than the run's; see its record.json")
