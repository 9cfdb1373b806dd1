"""Stage 2 on MNIST and sets of its kind; the file name keeps the authors' spelling (C2S-D13)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage2
from reproduction.runtime.flags import run_main


def main() -> None:
    """Trains stage 2, on MNIST unless --dataset names another set."""
    train_stage2("train_rnn_classifer_mnist.py", "mnist", "lenet", flavour="mnist")


if __name__ == "__main__":
    run_main(main)
