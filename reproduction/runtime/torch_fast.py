"""Fast training of the torch papers: bfloat16 and TF32 if the device has them, and the one-cycle learning rate."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16: without them autocast is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def amp_of(device: torch.device, amp: str | None) -> str | None:
    """Returns the type for autocast: "auto" is "bf16" if the device has it; else, and for "tf32", None (float32)."""
    if amp == "auto":
        return "bf16" if computes_bf16(device) else None
    return None if amp == "tf32" else amp


def allow_tf32(allowed: bool) -> None:
    """Lets a GPU round the factors of float32 products to TF32, or not; torch's own default does in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def precision(device: torch.device, amp: str | None) -> str:
    """What a run computes in, for its first line and the record."""
    if amp == "tf32" and device.type == "cuda":
        return "float32 with TF32 products"
    return "bfloat16 autocast" if amp_of(device, amp) else "float32"


def old_driver() -> str | None:
    """Says that the driver is older than torch's CUDA needs, or fails, which torch treats like no GPU; else None."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        if "too old" in str(error):
            return f"the NVIDIA driver is too old for CUDA {torch.version.cuda} of torch; install a newer driver"
        # 803 and 804: the driver does not fit its own libraries; unknown: it does not answer
        if fault := re.search(r"Error \d+: [^\n]*|CUDA unknown error", str(error)):
            return f"the NVIDIA driver does not start ({fault[0]}); restart the machine or install a newer driver"
    return None


def fused(parameters: Iterable[torch.Tensor]) -> bool | None:
    """Returns the optimizer's argument `fused`: one kernel for all weights on a GPU, torch's own choice on the CPU."""
    return True if any(parameter.is_cuda for parameter in parameters) else None


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor from the CPU to the device without waiting for it; on the CPU it is the tensor itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def one_cycle(step: int, steps: int, peak: float, rise: float = 0.23, final: float = 0.07) -> float:
    """Learning rate of a step of a one-cycle schedule: linear up to the peak, then linear down.

    Args:
      step: counted from 0.
      steps: steps of the whole training.
      peak: the highest rate.
      rise: share of the steps with a rising rate.
      final: rate of the last step divided by the peak.
    """
    top = max(1, round(rise * steps))
    if step < top:
        return peak * (step + 1) / top
    return peak * (1 - (1 - final) * (step + 1 - top) / (steps - top))
