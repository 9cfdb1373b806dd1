"""Subclass deep neural networks on YouTube-8M: the authors' notebook_yt8m.py, in PyTorch, with their flags.

python notebook_yt8m.py --stage all          # find neglected classes, write the subclass files, train, score
python notebook_yt8m.py                      # train on existing subclass files and score on validate
python notebook_yt8m.py --num_subclasses 3862 --train_data_pattern_glob 'data/yt8m/video/train/train*.tfrecord'
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main
from subclass_torch.yt8m import flags


def main() -> None:
    """Parses first: --help and --print-config need no framework."""
    config = flags.parse()
    from subclass_torch.yt8m import stages

    stages.run(config)


if __name__ == "__main__":
    run_main(main)
