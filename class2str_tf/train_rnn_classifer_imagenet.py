"""Stage 2 on ImageNet, on the pool5 features of stage 1; the file name keeps the authors' spelling (C2S-D25)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage2
from reproduction.runtime.flags import run_main


def main() -> None:
    """Trains stage 2 on the pool5 features of stage 1."""
    train_stage2("train_rnn_classifer_imagenet.py", "imagenet", "vgg", batch=100, flavour="imagenet")


if __name__ == "__main__":
    run_main(main)
