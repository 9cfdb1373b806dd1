"""Trains a classifier, alone (vanilla) or with an embedding head and a ranking loss, and tests it at intervals."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main
from reproduction.runtime.run_data import already_done
from triplet_tf.config import base_config
from triplet_tf.config.initial_weights import check_started_from
from triplet_tf.data_sampling.image_lists import data_set


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one training with these flags; None takes the command line."""
    config = base_config.parse(base_config.training_parser(), None if argv is None else list(argv))
    if not config.eval:
        check_started_from(config)
        if already_done(config.folder, base_config.of_run(config), data_set(config)):
            return
    base_config.choose_gpu(config, argv)
    base_config.warn_of_frame(config)
    if config.eval:
        from triplet_tf.training.record import evaluate_checkpoint

        evaluate_checkpoint(config)
        return
    from triplet_tf.training.loop import run_training

    run_training(config)


if __name__ == "__main__":
    run_main(main)
