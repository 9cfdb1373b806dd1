"""reproduction/runtime/torch_runtime.py: seeds, checkpoints, stops."""

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import UserError

ROOT = Path(__file__).resolve().parent.parent.parent


def test_draws_are_functions_of_their_words():
    first = torch.rand(4, generator=runtime.generator(0, "stage1", "order", 3))
    torch.rand(100)  # the global state does not matter
    assert torch.equal(first, torch.rand(4, generator=runtime.generator(0, "stage1", "order", 3)))
    seeds = {
        runtime.derive(*words)
        for words in ((0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1"), (0, "a", 1, 0))
    }
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


def test_states_newest_two_and_fallback(tmp_path, capsys):
    assert runtime.load_state(tmp_path) is None
    for step in (1, 5, 12):
        runtime.save_state(
            tmp_path, step, {"step": step, "w": torch.full((3,), float(step)), "history": [{"loss": 0.5}]}
        )
    assert [path.name for path in sorted(tmp_path.glob("*"))] == ["state-0000000005.pt", "state-0000000012.pt"]
    assert runtime.load_state(tmp_path)["step"] == 12
    newest = tmp_path / "state-0000000012.pt"
    newest.write_bytes(newest.read_bytes()[:-50])
    state = runtime.load_state(tmp_path)
    assert state["step"] == 5 and state["w"].tolist() == [5.0, 5.0, 5.0]
    said = capsys.readouterr().err
    assert "state-0000000012.pt: not a readable checkpoint" in said and "going on from the one before" in said
    assert len(said.strip().splitlines()) == 1 and newest.exists()
    runtime.save_state(tmp_path, 8, {"step": 8})  # what the run went on without is no newest state
    assert [path.name for path in sorted(tmp_path.glob("*"))] == ["state-0000000005.pt", "state-0000000008.pt"]
    assert runtime.load_state(tmp_path) == {"step": 8}


def test_where_no_state_is_whole_nothing_starts_anew_and_nothing_is_removed(tmp_path):
    runtime.save_state(tmp_path, 5, {"step": 5})
    path = tmp_path / "state-0000000005.pt"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="0005.pt: not a readable.*no checkpoint can be restored; --overwrite starts"):
        runtime.load_state(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_state_that_the_machine_cannot_read_is_no_damaged_one(tmp_path, monkeypatch, error):
    for step in (1, 2):
        runtime.save_state(tmp_path, step, {"step": step})

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    with pytest.raises(UserError, match="state-0000000002.pt: cannot be read") as refused:
        runtime.load_state(tmp_path)
    assert said[:60] in str(refused.value) and len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    runtime.write_checkpoint(path, {"x": 1})
    before = path.read_bytes()

    def full(_content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        runtime.write_checkpoint(path, {"x": 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_kill_go_away(tmp_path):
    (tmp_path / ".state-0000000001.pt.99.partial").write_bytes(b"half")
    runtime.save_state(tmp_path, 2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["state-0000000002.pt"]


def test_foreign_pickles_are_not_executed(tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w')",))

    torch.save({"x": Hostile()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="bad.pt: not a readable checkpoint"):
        runtime.read_checkpoint(tmp_path / "bad.pt")
    assert not marker.exists()


def test_devices():
    assert runtime.pick_device("cpu") == torch.device("cpu") and runtime.device_name(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert runtime.pick_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="--device cuda:1: torch sees 0 GPUs"):
            runtime.pick_device("cuda:1")


def test_denormals_are_flushed_and_torchvision_imports():
    code = (
        "from reproduction.runtime import torch_runtime as r\nr.start(0, 1)\nimport torch\n"
        "assert (torch.full((64,), 1e-30) * 1e-10).abs().sum() == 0\n"
        "assert torch.get_num_threads() == 1\nfrom reproduction.runtime import torchvision_guard as g\n"
        "print(g.torchvision_ready())\n"
        "from torchvision import transforms; transforms.RandomCrop(4)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout[0].isdigit()


def test_at_most_200_lines():
    assert len((ROOT / "reproduction" / "runtime" / "torch_runtime.py").read_text().splitlines()) <= 200


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    """Torch's writer hides the failed write behind an error of its own; the scripts' one line needs the first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError) as caught:
            runtime.write_checkpoint(tmp_path / "state.pt", {"weights": torch.zeros(60_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
