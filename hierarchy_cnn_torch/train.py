"""Trains one variant of the study.

Stage flat trains the flat CNN (A0) and derives a class hierarchy from its held-out scores; stage aware trains a
hierarchy-aware network or one of its controls (A1 to A5).

    python hierarchy_cnn_torch/train.py --dataset fashion_mnist --stage flat --out runs/hierarchy/mine/A0
    python hierarchy_cnn_torch/train.py --dataset fashion_mnist --stage aware --arm A1 --out runs/hierarchy/mine/A1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contextlib
import functools

from hierarchy_cnn_torch import flags
from reproduction.runtime import run_data
from reproduction.runtime.flags import finish_parsing, run_main
from reproduction.runtime.run_folder import Run, open_run, stop_signals


def train(config: flags.Config) -> None:
    """Trains, or evaluates a checkpoint with --eval."""
    from hierarchy_cnn_torch.data import images
    from reproduction.runtime import torch_runtime as runtime
    from reproduction.runtime import torch_states

    runtime.start(config.seed, config.threads, config.deterministic, config.amp)
    with runtime.open_world(config.device) as world:
        load = functools.cache(lambda: images.load(config))
        if config.eval:
            from hierarchy_cnn_torch.training.evaluate import evaluate_checkpoint

            evaluate_checkpoint(config, load(), world)
            return
        if config.stage == "aware":
            from hierarchy_cnn_torch.training import stage2 as stage

            stage.finished_stage_1(config)
        else:
            from hierarchy_cnn_torch.training import stage1 as stage  # type: ignore[no-redef]
        settings = flags.of_run(config)
        folder = Path(config.runs_dir) / config.name
        writes = world.rank == 0  # the folder, and knows whether the run has finished
        other = contextlib.nullcontext(Run(folder, settings, False))
        with open_run(folder, settings, config.overwrite) if writes else other as run, stop_signals() as stop:
            seen = run_data.look_at(settings)

            def digests() -> dict[str, str]:
                if config.stage == "aware":
                    hint = "run --stage flat with --overwrite, or choose --flat-run"
                    run_data.check_data(Path(config.flat_run or ""), load().digests, hint)
                return load().digests

            if not torch_states.decided(world, lambda: run_data.is_finished(run, seen, digests)):
                stage.train(config, load(), run, world, stop)


def main() -> None:
    """Command line."""
    run_main(lambda: train(finish_parsing(flags.train_parser(), flags.resolve_train)))


if __name__ == "__main__":
    main()
