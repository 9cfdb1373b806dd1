"""Shared fixtures: the repository's scripts as subprocesses, as a user starts them."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from reproduction.runtime.driver import visible_gpu
from tests import scripts

# One thread in each of the suite's processes: threads of several on the same cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The suite shows the same each time it is run; looking for new inputs is what `make fuzz` is for.
hypothesis.settings.register_profile("suite", derandomize=True)
hypothesis.settings.load_profile("suite")

# One process of the suite may load both frameworks. TensorFlow first and then triton, which comes with torch's CUDA
# build, is a segmentation fault; triton first is not.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent

# The suite needs no GPU and compares bits: it uses none, and what its tests of GPUs find is theirs.
if visible_gpu():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# `make test` tells the makes it starts that they are its children, and these then print the folder they work in.
for inherited in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(inherited, None)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, as a test waits for others' starts and kills; four at most, for memory."""
    return min(4, (os.cpu_count() or 1) + 1)


# Files whose tests run whole programs: a process that took one of them last would work on alone for minutes.
FIRST = (
    "test_image_to_record", "triplet/test_runs", "class2str/test_stages", "finegrained/test_stages", "fuzz/test_fuzz",
    "test_gpu_check", "test_benchmarks", "hierarchy/test_runs", "triplet/test_nets", "subclass/test_stages",
    "reproduction/test_sweep", "subclass/test_processes", "class2str/test_matched", "subclass/test_fast",
    "subclass/test_changed_data", "finegrained/test_clustering",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the files of FIRST to the front, in this order."""
    rank = {ROOT / "tests" / f"{name}.py": place for place, name in enumerate(FIRST)}
    assert all(path.is_file() for path in rank)
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


# ---- no network: a test that asks for it fails, whatever the code under test makes of the refusal -------------------

_asked: list[str] = []


def _stays_here(host: Any) -> bool:
    """Whether a host name or address is this machine's own loopback; no name is looked up for that."""
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        peer, address = arguments
        # A connected datagram socket has sent nothing yet: that is how one asks for this machine's own address.
        if not isinstance(address, tuple) or (event == "socket.connect" and peer.type == socket.SOCK_DGRAM):
            return
        host = address[0]
    else:
        return
    if not _stays_here(host):
        _asked.append(f"{event} {host}")
        raise OSError(f"the test suite has no network: {_asked[-1]}")


sys.addaudithook(_refuse_network)  # of this process; what a test starts as a program is not watched


def _fail_where_network_was_asked() -> Iterator[None]:
    _asked.clear()
    try:
        return (yield)
    finally:
        if _asked:
            pytest.fail(f"asked for network: {', '.join(dict.fromkeys(_asked))}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from _fail_where_network_was_asked())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from _fail_where_network_was_asked())


def _loopback_is_up() -> bool:
    """Whether this machine can talk to itself; brings the loopback interface up where only that is missing.

    A network namespace of its own (`unshare --net`), which is how the suite is run without network, begins without it.
    """
    get, put, up, layout = 0x8913, 0x8914, 1, "16sH14s"  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
            answer = fcntl.ioctl(query, get, struct.pack(layout, b"lo", 0, b""))
            flags = struct.unpack(layout, answer)[1]
            if not flags & up:
                fcntl.ioctl(query, put, struct.pack(layout, b"lo", flags | up, b""))
        return True
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Training flushes them to zero for the whole process, which later tests (and hypothesis) would trip over."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def loopback() -> None:
    """For tests in which processes of this machine talk to each other; nothing leaves the machine."""
    if not _loopback_is_up():
        pytest.skip("no loopback interface, and no right to bring it up (ip link set lo up)")


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """script("class2str_tf/train_fc_classifier.py", "--B=8", code=2) -> the finished process; see scripts.run."""

    def run(path: str, *flags: object, **options: Any) -> subprocess.CompletedProcess:
        return scripts.run(*path.split("/"), *flags, **options)

    return run


@pytest.fixture(scope="session")
def killed_when() -> Callable[..., None]:
    """Starts a script, waits until `seen()` is true, and kills it with SIGKILL."""

    def run(path: str, *flags: str, seen: Callable[[], bool], timeout: float = 120) -> None:
        words, env = [sys.executable, str(ROOT / path), *map(str, flags)], scripts.environment_of(path.split("/")[0])
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout
        try:
            while not seen():
                assert process.poll() is None, f"{path} ended with {process.returncode} before it could be killed"
                assert time.monotonic() < deadline, f"{path}: not seen within {timeout} s"
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()

    return run


@pytest.fixture
def unfinished(tmp_path):
    """unfinished(folder, file): a copy of a run, its record and stamp gone, in which `file` cannot be drawn."""

    def copy(folder: Path, file: str) -> Path:
        runs = shutil.copytree(folder, tmp_path / "copy" / folder.name)
        picture = next(runs.rglob(file))
        for name in (picture, picture.parent / "record.json", picture.parent / "DONE"):
            name.unlink()
        picture.mkdir()
        return picture

    return copy
