"""The authors' main.py: their setting for FGVC-Aircraft, `num_trials` times. Further flags are appended and win."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main
from triplet_tf import fast_fgvr_semi_train

NUM_TRIALS = 1


def arguments(trial: int) -> list[str]:
    """Flags of one trial, as released; `--frame_size 299` is commented out there, so frames are 224 in spite of the
    suffix. The trial is the seed, which the released code does not have. `--gpu 0`, its default, is left out, so that
    CUDA_VISIBLE_DEVICES of the environment counts."""
    return (
        "--db_name aircrafts --net resnet50 --train_mode semi_hard --margin 0.2 --caffe_iter_size 1 "
        "--logging_threshold 500 --train_iters 40000 --learning_rate 0.01 --aug_style img "
        f"--checkpoint_suffix _lm1_aug_img_fixed_299_{trial} --seed {trial}"
    ).split()


def main() -> None:
    """Trains NUM_TRIALS times with the authors' flags, one seed each; flags on the command line override them."""
    if {"-h", "--help"} & set(sys.argv):
        print(f"main.py runs fast_fgvr_semi_train.py with these flags, then yours: {' '.join(arguments(0))}\n")
    for trial in range(NUM_TRIALS):
        fast_fgvr_semi_train.main(arguments(trial) + sys.argv[1:])


if __name__ == "__main__":
    run_main(main)
