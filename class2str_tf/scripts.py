"""What the training scripts share: they parse the flags, leave a finished run alone, then load TensorFlow and train."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from class2str_tf.flags import MnistConfig, fc_parser, of_run, parse_fc, parse_rnn, rnn_parser
from reproduction.runtime.flags import is_set
from reproduction.runtime.run_data import already_done


def train_stage1(script: str, dataset: str = "cifar10", original_flags: bool = True) -> None:
    """Runs a stage-1 script; the arguments are those of `fc_parser`."""
    config = parse_fc(fc_parser(script, dataset, original_flags))
    if already_done(config.folder, of_run(config)):
        return
    if dataset == "imagenet":
        from class2str_tf.training.imagenet_stage1 import run_fc

        run_fc(config)
    else:
        from class2str_tf.training.stage1 import run_stage1

        run_stage1(config)


def train_stage2(script: str, dataset: str, model: str, batch: int = 200, flavour: str = "") -> None:
    """Runs a stage-2 script; the arguments are those of `rnn_parser`."""
    config = parse_rnn(rnn_parser(script, dataset, model, batch, flavour))
    if already_done(config.folder, of_run(config)):
        return
    if isinstance(config, MnistConfig) and config.device == "auto" and is_set(Namespace(argv=sys.argv[1:]), "gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(config.gpu)  # before TensorFlow is imported
    from class2str_tf.training.stage2 import run_stage2

    run_stage2(config)
