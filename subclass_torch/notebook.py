"""Subclass deep neural networks on images: the authors' notebook.py, with their flags.

    python notebook.py --dataset cifar10 --model vgg16 --data_augmentation --cutout --length 16 --subclass

Stage 1 trains a plain network and finds the neglected classes; stage 2 trains a fresh network on their subclasses.
Without --subclass the plain network is trained by the protocol of stage 2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main  # noqa: E402
from subclass_torch import flags  # noqa: E402


def main() -> None:
    """Parses first: --help and --print-config need no framework."""
    config = flags.parse()
    from subclass_torch.training import stages

    stages.run(config)


if __name__ == "__main__":
    run_main(main)
