"""Runs the stages in order. A stage imports its own modules alone: the report's page would slow down the others."""

from __future__ import annotations

from finegrained_torch.flags import AMP, Config
from finegrained_torch.training.setting import Setting
from reproduction.runtime import torch_runtime


def open_setting(config: Config) -> Setting:
    """Sets up torch for a command; call it before anything else uses torch."""
    torch_runtime.start(config.seed, config.threads, amp=AMP[config.precision])
    return Setting(config)


def run_stage(setting: Setting, name: str) -> None:
    """Runs one stage, by its name in --stage."""
    if name in ("sub", "fine-tune", "multi-head"):
        from finegrained_torch.training import stage2

        {"sub": stage2.train_sub, "fine-tune": stage2.fine_tune, "multi-head": stage2.train_multi_head}[name](setting)
    elif name == "stability":
        from finegrained_torch.training.stability import compare_seeds

        compare_seeds(setting)
    elif name == "report":
        from finegrained_torch.training.report import report

        report(setting)
    else:
        from finegrained_torch.training import stage1

        {
            "coarse": stage1.train_coarse,
            "features": stage1.extract_features,
            "uncertainty": stage1.compute_uncertainty,
            "cluster": stage1.cluster,
        }[name](setting)


def run(config: Config) -> None:
    """Runs the stages of --stage in order, or with --eval tests a checkpoint."""
    setting = open_setting(config)
    if config.eval:
        from finegrained_torch.training.evaluate import print_evaluation

        print_evaluation(setting, config.eval)
        return
    for name in config.stage:
        run_stage(setting, name)
