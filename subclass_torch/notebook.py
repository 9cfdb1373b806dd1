"""Subclass deep neural networks on images: the authors' notebook.py, with their flags.

    python notebook.py --dataset cifar10 --model vgg16 --data_augmentation --cutout --length 16 --subclass

Stage 1 trains a plain network and finds the neglected classes; stage 2 trains a fresh network on their subclasses.
Without --subclass the plain network is trained by the protocol of stage 2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduction.runtime.flags import run_main
from subclass_torch import flags


def main() -> None:
    """Parses first: --help and --print-config need no framework; each stage loads what it needs."""
    config = flags.parse()
    from reproduction.runtime import torch_runtime as runtime
    from reproduction.runtime.run_folder import stop_signals

    # DEVIATION SDN-D25: everything is seeded, not torch alone
    runtime.start(config.seed, config.threads, config.deterministic, config.amp)
    with runtime.open_world(config.device) as world, stop_signals() as stop:  # DEVIATION SDN-D23: device is a flag
        if config.eval:
            from subclass_torch.training.evaluate import evaluate_checkpoint

            evaluate_checkpoint(config, world)
            return
        from subclass_torch.training.setting import Setting

        setting = Setting(config, world, stop)
        if config.subclass and config.stage != "train":
            from subclass_torch.training.stage1 import identify

            identify(setting)
            runtime.agreed(world, False)  # the other processes read what the first one wrote
        if config.stage != "identify":
            from subclass_torch.training.stage2 import train

            runtime.set_threads(config.threads)
            train(setting)


if __name__ == "__main__":
    run_main(main)
