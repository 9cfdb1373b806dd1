"""The authors' older entry point: the base network, transfer from fine labels, or multi-head.

    python main.py --dataset cifar10 --strategy transfer

The released file imports modules that do not exist; its flags drive this package's stages here.
"""

# DEVIATION FGL-D01: base, transfer and multihead are the stages of pipeline.py, on true fine labels by default

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from finegrained_torch import flags
from reproduction.runtime.flags import run_main

if __name__ == "__mp_main__" and flags.TRAINING_CHILD in os.environ:  # a process that Lightning spawned
    from finegrained_torch.training import modules  # noqa: F401


def main() -> None:
    """Parses first: --help and --print-config need no framework."""
    config = flags.parse_main()
    from finegrained_torch.training import stages

    stages.run(config)


if __name__ == "__main__":
    run_main(main)
