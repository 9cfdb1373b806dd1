"""Runs the stages in order; each is imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from finegrained_torch.flags import AMP, Config
from finegrained_torch.training.setting import Setting
from reproduction.runtime import torch_runtime

STAGES = {  # --stage -> module and function
    "coarse": ("training.stage1", "train_coarse"),
    "features": ("training.stage1", "extract_features"),
    "uncertainty": ("training.stage1", "compute_uncertainty"),
    "cluster": ("training.stage1", "cluster"),
    "sub": ("training.stage2", "train_sub"),
    "fine-tune": ("training.stage2", "fine_tune"),
    "multi-head": ("training.stage2", "train_multi_head"),
    "stability": ("training.stability", "compare_seeds"),
}


def run_stage(setting: Setting, name: str) -> None:
    """Runs one stage."""
    if name == "report":
        from finegrained_torch.training.report import write_report

        config = setting.config
        write_report(setting.out, config.data_dir, config.accept_unverified, config.dataset)
        torch_runtime.set_threads(setting.config.threads)
        return
    module, function = STAGES[name]
    getattr(import_module(f"finegrained_torch.{module}"), function)(setting)


def run(config: Config, names: Sequence[str] | None = None) -> None:
    """Runs stages in order.

    Args:
      config: resolved flags.
      names: instead of those of --stage.
    """
    torch_runtime.start(config.seed, config.threads, amp=AMP[config.precision])
    setting = Setting(config)
    if config.eval:
        from finegrained_torch.training.evaluate import print_evaluation

        print_evaluation(setting, config.eval)
        return
    for name in config.stage if names is None else names:
        run_stage(setting, name)
