"""What a GPU's faults look like to the user; the exceptions are the frameworks' own, the texts those they raise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from reproduction.runtime import driver, faults, flags, torch_fast, torch_runtime
from reproduction.runtime.run_folder import UserError

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16.00 GiB of which 1.00 GiB is free."
    " Of the allocated memory 38.00 GiB is allocated by PyTorch, and 200.00 MiB is reserved by PyTorch but unallocated."
)
LOST = (
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some other API call"
)


@pytest.fixture
def parsed(monkeypatch):
    """Flags of a script with a batch size of 512."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    parser = flags.Parser("train.py", "")
    parser.additions.add_argument("--batch_size", type=int, default=512)
    parser.additions.add_argument("--print-config", action="store_true")
    flags.finish_parsing(parser, lambda args: argparse.Namespace(**vars(args)) and vars(args), [])


def raised(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints whose training raises the error; it must be one line and exit code 2."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        flags.run_main(main)
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    return said.err


def test_out_of_memory_names_the_batch_that_fits(parsed, capsys):
    said = raised(torch.OutOfMemoryError(FULL), capsys)
    # 16 GiB, of which 80 % count, of 40 GiB: 0.32 of 512 images are 163, the power of two below is 128
    assert "out of GPU memory with --batch_size 512" in said and "--batch_size 128 fits" in said


def test_out_of_memory_without_amounts_halves_the_batch_and_without_a_batch_names_no_flag(capsys):
    assert faults.batch_that_fits(200, "OOM when allocating tensor with shape[200,64,32,32]") == 64
    assert faults.batch_that_fits(1, "OOM") == 1 and faults.batch_that_fits(512, FULL) == 128
    assert "free the GPU of other programs" in faults.explain(torch.OutOfMemoryError(FULL), None)
    assert faults.batch_of({"B": 200}) == ("--B", 200) and faults.batch_of({"x": 1}) is None


def test_tensorflow_says_the_same(parsed, capsys):
    tf = pytest.importorskip("tensorflow")
    text = "OOM when allocating tensor with shape[512,64,32,32] on /device:GPU:0 by allocator GPU_0_bfc"
    assert "--batch_size 256 fits" in raised(tf.errors.ResourceExhaustedError(None, None, text), capsys)
    # a session's message begins with where the node was defined
    found = f"Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\nNode: 'a'\n{text}"
    said = raised(tf.errors.ResourceExhaustedError(None, None, found), capsys)
    assert f"({text})" in said and "--batch_size 256 fits" in said
    twice = f"Graph execution error:\n\nNode: 'a'\nNode: 'b'\n2 root error(s) found.\n  (0) {text}\n  (1) {text}"
    assert f"((0) {text})" in raised(tf.errors.ResourceExhaustedError(None, None, twice), capsys)
    copied = tf.errors.InternalError(None, None, "Dst tensor is not initialized.")
    assert "out of GPU memory with --batch_size 512" in raised(copied, capsys)
    lost = tf.errors.InternalError(None, None, "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered")
    assert "the GPU was lost" in raised(lost, capsys)
    from triplet_tf.data_sampling import loader

    full = tf.errors.ResourceExhaustedError(None, None, text)
    assert loader.explained(full, []) is full


def test_a_disk_that_tensorflow_finds_full_is_no_lack_of_gpu_memory(parsed, capsys):
    """TensorFlow raises the same class of error for both."""
    pytest.importorskip("tensorflow")
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default(), tf1.Session() as session:
        written = tf1.write_file("/dev/full", "x" * 1_000_000)
        with pytest.raises(tf1.errors.ResourceExhaustedError) as failed:
            session.run(written)
    said = raised(failed.value, capsys)
    assert "/dev/full; No space left on device; free some space, the same command goes on" in said and "GPU" not in said


def test_a_session_that_fails_names_the_error_and_not_only_the_graph():
    """The layout of the message is TensorFlow's own, here of an operator that fails on a CPU."""
    pytest.importorskip("tensorflow")
    from reproduction.runtime.tf import tf1

    with tf1.Graph().as_default(), tf1.Session() as session:
        broken = tf1.check_numerics(tf1.constant([1.0]) / 0.0, "OOM when allocating tensor")
        with pytest.raises(tf1.errors.InvalidArgumentError, match="Graph execution error") as failed:
            session.run(broken)
    assert faults.first_line(failed.value).startswith("OOM when allocating tensor")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ],
)
def test_memory_that_cuda_lacks_for_itself_is_no_lost_gpu(text, parsed, capsys):
    said = raised(torch.AcceleratorError(text), capsys)
    assert "out of GPU memory with --batch_size 512" in said and "--batch_size 256 fits" in said


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "Failed to synchronize: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    ],
)
def test_an_illegal_memory_access_is_a_line_and_the_way_on(text, parsed, capsys):
    said = raised(torch.AcceleratorError(text), capsys)
    assert text in said and "the same command goes on" in said and "CUDA_LAUNCH_BLOCKING=1" in said


@pytest.mark.parametrize("text", [LOST, "CUDA error: unknown error", "CUDNN_STATUS_EXECUTION_FAILED"])
def test_a_lost_gpu_ends_with_a_line_that_says_how_to_go_on(text, parsed, capsys):
    said = raised(RuntimeError(text), capsys)
    assert "the GPU was lost" in said and "the same command goes on" in said and text.splitlines()[0] in said


def test_code_that_is_wrong_is_no_lost_gpu(parsed):
    for text in ("CUDA error: device-side assert triggered", "shapes do not match", "CUDA error: invalid argument"):
        with pytest.raises(RuntimeError, match=text):
            flags.run_main(lambda text=text: (_ for _ in ()).throw(RuntimeError(text)))
    assert "no code for this GPU" in faults.explain(RuntimeError("CUDA error: no kernel image is available"))


def test_a_driver_older_than_torch_is_refused_and_not_taken_for_a_machine_without_a_gpu(monkeypatch):
    def old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    def none() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "init", none)
    assert torch_fast.old_driver() is None and torch_runtime.pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "init", old)
    for name in ("auto", "cuda"):
        with pytest.raises(
            UserError, match=f"--device {name}: the NVIDIA driver is too old .*--device cpu runs without"
        ):
            torch_runtime.pick_device(name)
    assert torch_runtime.pick_device("cpu").type == "cpu"

    def unfit() -> None:
        raise RuntimeError(
            "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted on "
            "non supported HW"
        )

    monkeypatch.setattr(torch.cuda, "init", unfit)
    with pytest.raises(UserError, match="--device auto: the NVIDIA driver does not start .Error 804: forward compat"):
        torch_runtime.pick_device("auto")


def test_torch_is_not_silently_on_the_cpu(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(driver, "first_gpu", lambda: "NVIDIA Card 1")
    with pytest.raises(UserError, match="--device auto: torch sees no GPU although the driver lists one"):
        torch_runtime.pick_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert torch_runtime.pick_device("auto").type == torch_runtime.pick_device("cpu").type == "cpu"


def test_tensorflow_is_not_silently_on_the_cpu(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow")
    from reproduction.runtime import tf_runtime

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(driver, "first_gpu", lambda: "NVIDIA Card 1")
    with pytest.raises(UserError, match="--device auto: TensorFlow sees no GPU although the driver lists one.*GPU=1"):
        tf_runtime.start(0, "auto")
    tf_runtime.start(0, "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert tf_runtime.precision_of(tf_runtime.start(0, "auto", amp="tf32")) == "float32"  # no GPU: nothing to round
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(driver, "first_gpu", lambda: None)
    tf_runtime.start(0, "auto")


def test_a_tensorflow_session_sees_the_gpu_that_was_asked_for_and_no_other(monkeypatch):
    """A session that is given a configuration does not look at tf.config."""
    tf = pytest.importorskip("tensorflow")
    from reproduction.runtime import tf_runtime

    gpus, visible = ["first", "second"], []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(visible))

    def show(some: object, kind: str) -> None:
        visible[:] = some if isinstance(some, list) else [some]

    monkeypatch.setattr(tf.config, "set_visible_devices", show)
    for device, wanted in (("auto", [0]), ("cpu", []), ("cuda", [0]), ("cuda:1", [1])):
        visible[:] = gpus
        config = tf_runtime.start(0, device)
        assert config.device_count["GPU"] == len(wanted)
        assert config.gpu_options.visible_device_list == ",".join(map(str, wanted))


def test_tensorflows_checkpoints_know_their_device(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow")
    from reproduction.runtime import tf_states
    from reproduction.runtime.tf import tf1

    monkeypatch.setattr(tf_states, "save_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr(tf_states, "restore_newest", lambda *_: 3)
    for gpu, device in ((None, "cpu"), ("a GPU", "cuda")):
        monkeypatch.setattr(tf_states, "gpu_name", lambda gpu=gpu: gpu)
        with tf1.Graph().as_default():
            tf1.train.get_or_create_global_step()
            states = tf_states.States(None, tmp_path, [9], "test/acc")
        states.save({"step": 3, "seconds": 1.0, "images": 12})
        assert states.load()["device"] == states.device == device


def test_bfloat16_is_not_recorded_of_a_gpu_where_tensorflow_does_not_rewrite_the_graph(monkeypatch):
    pytest.importorskip("tensorflow")
    from reproduction.runtime import tf_runtime

    config = tf_runtime.start(0, "cpu", amp="bf16")
    assert tf_runtime.precision_of(config) == "bfloat16"
    monkeypatch.setattr(tf_runtime, "gpu_name", lambda: "a GPU")
    assert tf_runtime.precision_of(config) == "float32"


def test_tf32_is_off_unless_asked_for():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for amp, allowed in (("tf32", True), (None, False), ("bf16", False)):
            torch_runtime.start(0, threads=1, amp=amp)
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert torch_runtime.amp_of(cpu, "tf32") is None and torch_runtime.precision(cpu, "tf32") == "float32"
    assert torch_runtime.precision(gpu, "tf32") == "float32 with TF32 products"


def test_fused_optimizers_are_for_gpus_only():
    assert torch_runtime.fused([torch.zeros(1)]) is None
    assert torch_runtime.fused([torch.zeros(1), argparse.Namespace(is_cuda=True)]) is True


def test_a_run_whose_gpu_is_lost_goes_on_from_its_checkpoint(tmp_path):
    """A GPU that is lost in step 7 of a run: one line, and the same command goes on to the record."""
    import subprocess

    from tests.test_layout import ROOT

    words = "--dataset mnist5k --preset mini --epochs 1 --subset 500 --held-out 150 --batch 16 --curve-images 100"
    words += f" --lr 0.003 --keep-epochs none --checkpoint-steps 4 --device cpu --runs-dir {tmp_path} --name lost"
    lose = (
        "import sys; from hierarchy_cnn_torch.training import loop; from hierarchy_cnn_torch import train\n"
        "own, seen = loop.prepared, []\n"
        "def prepared(*a):\n    seen.append(1)\n    if len(seen) == 7:\n"
        f"        raise RuntimeError({LOST!r})\n    return own(*a)\n"
        "loop.prepared = prepared; sys.argv = ['train.py', *sys.argv[1:]]; train.main()\n"
    )
    first = subprocess.run([sys.executable, "-c", lose, *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 2 and first.stderr.count("\n") == 1 and "the GPU was lost" in first.stderr, first.stderr
    script = [sys.executable, "hierarchy_cnn_torch/train.py", *words.split()]
    again = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "going on at epoch 1, step 5" in again.stdout, again.stdout + again.stderr
    assert (Path(tmp_path) / "lost" / "record.json").exists()
