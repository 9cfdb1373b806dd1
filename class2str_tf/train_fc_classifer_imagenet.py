"""ImageNet, stage 1: the pretrained VGG16 over both splits, once (C2S-D25); the authors' spelling."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.scripts import train_stage1
from reproduction.runtime.flags import run_main


def main() -> None:
    """Computes the features and the FC accuracy of the pretrained VGG16."""
    train_stage1("train_fc_classifer_imagenet.py", dataset="imagenet", original_flags=False)


if __name__ == "__main__":
    run_main(main)
