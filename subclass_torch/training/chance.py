"""Warns of a training that has learned nothing: its accuracy is still at chance."""

from __future__ import annotations

import math
import sys

from torch import Tensor

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.torch_runtime import World
from subclass_torch.flags import Config


def check_chance(
    stage: str, truth: Tensor, classes: int, config: Config, accuracy: float, samples: int, world: World
) -> None:
    """Warns if the training accuracy of an epoch is at chance; the run goes on, as the released program does.

    At chance: within three standard errors of the share of the largest class.

    Args:
      stage: its name.
      truth: int64 [N], class of each training image.
      classes: C.
      config: the resolved flags; `chance_stops` asks for an error.
      accuracy: share of the samples whose class was right in this epoch.
      samples: how many samples the epoch had.
      world: the processes; the first one prints.
    Raises:
      UserError: training is at chance and --chance-epochs was given.
    """
    share = truth.bincount().max().item() / len(truth)
    if accuracy > share + 3 * math.sqrt(share * (1 - share) / samples):
        return
    epochs = config.chance_epochs
    message = (
        f"{stage}: after {epochs} epochs the training accuracy {100 * accuracy:.2f} % is still at chance "
        f"({100 * share:.2f} %); try --learning_rate {working_rate(config.learning_rate, classes):g}"
    )
    if config.chance_stops:
        raise UserError(f"{message} (--chance-epochs 0 goes on)")
    if world.rank == 0:
        hint = "" if config.compat == "official" else f"; --chance-epochs {epochs} stops it"
        print(f"warning: {message} (the run goes on{hint})", file=sys.stderr, flush=True)


def working_rate(rate: float, classes: int) -> float:
    """The learning rate to try after one that left training at chance.

    The loss is a sum over outputs, so the largest rate that does not saturate them falls with their number: tried on
    CIFAR, 0.01 works for 10 classes and 0.001 for 100. See "Saturation" in docs/papers/subclass.md.

    Args:
      rate: the rate that failed.
      classes: C.
    Returns:
      0.1 / C to one digit; a tenth of that if it is what failed.
    """
    tried = float(f"{0.1 / classes:.0e}")
    return tried / 10 if rate == tried else tried
