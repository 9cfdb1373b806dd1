"""Stage 2 on MNIST and sets of its kind; the file name keeps the authors' spelling (C2S-D13)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from class2str_tf.flags import parse_rnn, rnn_parser, settings
from reproduction.runtime.flags import run_main
from reproduction.runtime.run_data import already_done


def main() -> None:
    config = parse_rnn(rnn_parser("train_rnn_classifer_mnist.py", "mnist", "lenet", flavour="mnist"))
    if already_done(config.folder, settings(config)):
        return
    from class2str_tf.training.stage2 import run_stage2

    run_stage2(config)


if __name__ == "__main__":
    run_main(main)
