"""Stage 1 on CIFAR-10 (or any --dataset): CNN and fully connected classifier. The authors' train_fc_classifier.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage1
from reproduction.runtime.flags import run_main


def main() -> None:
    """Trains stage 1, on CIFAR-10 unless --dataset names another set."""
    train_stage1("train_fc_classifier.py")


if __name__ == "__main__":
    run_main(main)
