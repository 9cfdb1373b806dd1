"""Stage 2 on CIFAR-10 (or any --dataset). The authors' train_rnn_classifier_cifar.py, which did not parse (C2S-D05)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage2
from reproduction.runtime.flags import run_main


def main() -> None:
    """Trains stage 2, on CIFAR-10 unless --dataset names another set."""
    train_stage2("train_rnn_classifier_cifar.py", "cifar10", "vgg16")


if __name__ == "__main__":
    run_main(main)
