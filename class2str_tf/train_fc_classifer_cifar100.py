"""Stage 1 on CIFAR-100; the file name keeps the authors' spelling."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.flags import fc_parser, parse_fc, settings
from reproduction.runtime.flags import run_main
from reproduction.runtime.run_data import already_done


def main() -> None:
    config = parse_fc(fc_parser("train_fc_classifer_cifar100.py", dataset="cifar100"))
    if already_done(config.folder, settings(config)):
        return
    from class2str_tf.training.stage1 import run_stage1

    run_stage1(config)


if __name__ == "__main__":
    run_main(main)
