"""Runs the stages in order; each is imported when it is needed."""

from __future__ import annotations

from importlib import import_module

from finegrained_torch.flags import AMP, Config
from finegrained_torch.training.setting import Setting
from reproduction.runtime import torch_runtime

STAGES = {  # --stage -> module and function
    "coarse": ("stage1", "train_coarse"),
    "features": ("stage1", "extract_features"),
    "uncertainty": ("stage1", "compute_uncertainty"),
    "cluster": ("stage1", "cluster"),
    "sub": ("stage2", "train_sub"),
    "fine-tune": ("stage2", "fine_tune"),
    "multi-head": ("stage2", "train_multi_head"),
    "stability": ("stability", "compare_seeds"),
    "report": ("report", "report"),
}


def open_setting(config: Config) -> Setting:
    """Sets up torch for a command; call it before anything else uses torch."""
    torch_runtime.start(config.seed, config.threads, amp=AMP[config.precision])
    return Setting(config)


def run_stage(setting: Setting, name: str) -> None:
    """Runs one stage."""
    module, function = STAGES[name]
    getattr(import_module(f"finegrained_torch.training.{module}"), function)(setting)


def run(config: Config) -> None:
    """Runs the stages of --stage in order, or with --eval tests a checkpoint."""
    setting = open_setting(config)
    if config.eval:
        from finegrained_torch.training.evaluate import print_evaluation

        print_evaluation(setting, config.eval)
        return
    for name in config.stage:
        run_stage(setting, name)
