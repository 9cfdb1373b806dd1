"""Stage 2 on CIFAR-100; the authors' default network of this script is lenet."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage2
from reproduction.runtime.flags import run_main


def main() -> None:
    """Trains stage 2, on CIFAR-100 unless --dataset names another set."""
    train_stage2("train_rnn_classifier_cifar100.py", "cifar100", "lenet")


if __name__ == "__main__":
    run_main(main)
