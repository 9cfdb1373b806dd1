"""Evaluates any checkpoint of a run: `python triplet_tf/eval.py --checkpoint runs/triplet/<name>/model.ckptbest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main
from reproduction.runtime.run_folder import UserError
from triplet_tf.config import base_config


def main() -> None:
    """Evaluates --checkpoint; trains nothing."""
    parser = base_config.training_parser("eval.py")
    parser.description = "Restores a checkpoint and writes metrics.json, confusion.csv, embeddings.npz and plots."
    config = base_config.parse(parser)
    if not config.eval:
        raise UserError("--checkpoint is missing: the prefix of a checkpoint, such as RUN/model.ckptbest")
    base_config.choose_gpu(config)
    base_config.warn_of_frame(config)
    from triplet_tf.training.record import evaluate_checkpoint

    evaluate_checkpoint(config)


if __name__ == "__main__":
    run_main(main)
