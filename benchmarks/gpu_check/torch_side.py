"""The torch half of `make gpu-check`, a process of its own: what torch sees, agreement with the CPU, speed, hours."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_check import projection
from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.clock import Clock
from benchmarks.gpu_check.options import child_options
from benchmarks.gpu_check.report import COMPARISON_AND_SPEED, Report, check_network
from benchmarks.gpu_check.torch_networks import Case, cases, noise, run_loop
from benchmarks.gpu_check.verdict import PAPERS_OF
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.record import peak_memory_bytes
from reproduction.runtime.torch_fast import computes_bf16

STEPS = 20


def see(report: Report) -> None:
    """Reports what torch sees."""
    descriptions = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        descriptions.append(
            f"{about.name}, compute capability {about.major}.{about.minor}, {about.total_memory / 2**30:.0f} GiB"
        )
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    text = f"torch {torch.__version__}: built for CUDA {torch.version.cuda or 'none'}, cuDNN {cudnn or 'none'}; sees "
    text += "; ".join(descriptions) or "no GPU"
    report.add("seen", text, framework="torch", text=text, gpus=len(descriptions), built=torch.version.cuda)


def precisions(device: torch.device) -> dict[str, str]:
    """Precision -> why the device does not have it, "" if it does."""
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return {
        "float32": "",
        "tf32": "" if ampere else "needs a GPU of compute capability 8.0",
        "bf16": "" if computes_bf16(device) else "this device has no instructions for bfloat16",
    }


@contextlib.contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Lets torch compute in a precision; float32 means without TF32."""
    runtime.allow_tf32(precision == "tf32")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield
    runtime.allow_tf32(False)


def arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    """Copies on the CPU."""
    return [tensor.detach().float().cpu().numpy().copy() for tensor in tensors]


def compare(case: Case, device: torch.device, names: list[str], steps: int) -> list[Agreement]:
    """Trains on the CPU in float32 and follows on the device in each precision, each step from the CPU's weights.

    Weights and running statistics are the CPU's before every step, so that rounding does not grow from step to step;
    each optimizer keeps its own state.

    Args:
      case: of torch_networks.
      device: to check.
      names: precisions.
      steps: of training.
    """
    cpu = torch.device("cpu")
    reference: nn.Module = case.network.train()
    others = {name: copy.deepcopy(reference).to(device) for name in names}
    optimizers = {name: case.optimizer(net) for name, net in others.items()}
    reference_optimizer = case.optimizer(reference)
    agreements = [Agreement(name) for name in names]
    pixels, classes = noise(steps * case.batch, case.classes)
    inputs = (pixels.permute(0, 3, 1, 2).float() - 120) / 60

    def step(
        net: nn.Module, optimizer: torch.optim.Optimizer, at: int, precision: str, where: torch.device
    ) -> tuple[float, list[np.ndarray], list[np.ndarray]]:
        batch = slice(at * case.batch, (at + 1) * case.batch)
        before = [parameter.detach().clone() for parameter in net.parameters()]
        optimizer.zero_grad(set_to_none=True)
        with computing_in(precision, where):
            loss = case.loss(net, inputs[batch].to(where), classes[batch].to(where))
            loss.backward()
        gradients = arrays([parameter.grad for parameter in net.parameters() if parameter.grad is not None])
        optimizer.step()
        changes = arrays([after.detach() - old for after, old in zip(net.parameters(), before, strict=True)])
        return loss.item(), gradients, changes

    for at in range(steps):
        weights = {name: value.clone() for name, value in reference.state_dict().items()}
        expected = step(reference, reference_optimizer, at, "float32", cpu)
        for agreement, (name, net) in zip(agreements, others.items(), strict=True):
            net.load_state_dict(weights)
            measured = step(net, optimizers[name], at, name, device)
            agreement.add((expected[0], measured[0]), (expected[1], measured[1]), (expected[2], measured[2]))
    return agreements


def check_case(
    case: Case, device: torch.device, small: bool, report: Report, speeds: dict[str, dict[str, float]]
) -> None:
    """Compares and times one network; fills `speeds`: network -> precision -> images/s."""
    has = precisions(device)
    names = [name for name, lacks in has.items() if not lacks]
    for name, lacks in has.items():
        if lacks:
            print(f"{case.paper} {case.name} {name}: left out: {lacks}", flush=True)

    def run(precision: str, folder: Path) -> tuple[Clock, float]:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        clock = run_loop(case, precision, device, small, folder / "run")
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()
        return clock, peak / 2**20

    compared = functools.partial(compare, case, device, names, 3 if small else STEPS)
    check_network(case.paper, case.name, compared, run, names, report, speeds)


def main() -> None:
    """Runs as `python -m benchmarks.gpu_check.torch_side`."""
    options = child_options()
    report = Report(options.results)
    runtime.start(0)
    if not options.results.exists():
        see(report)
    if options.only_see:
        return
    device = runtime.pick_device(options.device)
    print(COMPARISON_AND_SPEED, flush=True)
    speeds: dict[str, dict[str, float]] = {}
    for make in cases(options.rehearse):
        check_case(make(), device, options.rehearse, report, speeds)
    auto = runtime.amp_of(device, "auto") or "float32"
    projection.report(PAPERS_OF["torch"], speeds, options.rehearse, auto, report)


if __name__ == "__main__":
    main()
