"""What we depend on: every installed package has a licence that THIRD_PARTY.md names, and importing asks no network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ("class2str_tf", "subclass_torch", "finegrained_torch", "triplet_tf", "hierarchy_cnn_torch")
PACKAGES = ("datasets", "reproduction", *PAPERS)
# family -> how metadata write it; copyleft licences are not among them on purpose (MPL-2.0 is per file)
FAMILIES = {
    "Apache-2.0": r"apache",
    "MPL-2.0": r"mpl|mozilla",
    "BSD": r"bsd",
    "MIT": r"\bmit\b|MIT-CMU",
    "PSF-2.0": r"psf|python software foundation",
}
# come with the environment, or with torch's wheels for GPUs
NOT_OURS = ("setuptools", "wheel", "nvidia-", "cuda-", "triton")


def key(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> set[str]:
    """Every installed distribution that the project's dependencies and extras lead to on this system."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    waiting, seen, found = [Requirement(line) for line in declared], set(), set()
    while waiting:
        asked = waiting.pop()
        name = key(asked.name)
        if (name, frozenset(asked.extras)) in seen or name.startswith(NOT_OURS):
            continue
        seen.add((name, frozenset(asked.extras)))
        try:
            requires = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue  # an extra of this project that is not installed
        found.add(name)
        for line in requires:
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                waiting.append(line)
    return found


def licence(name: str) -> str:
    """The families of a package's licence by its own metadata, such as "BSD + MIT", or "not stated"."""
    about = metadata.metadata(name)
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
    first_line = (about.get("License") or "").strip().partition("\n")[0]
    for text in (about.get("License-Expression") or "", " ".join(classifiers), first_line):
        found = [family for family, pattern in FAMILIES.items() if re.search(pattern, text, re.IGNORECASE)]
        if found:
            return " + ".join(sorted(found))
    return "not stated"


def table() -> str:
    """The lines of THIRD_PARTY.md between its marks: one for each licence, with the packages under it."""
    by_licence: dict[str, list[str]] = {}
    for name in sorted(needed()):
        by_licence.setdefault(licence(name), []).append(name)
    lines = [f"| {kind} | {', '.join(names)} |" for kind, names in sorted(by_licence.items())]
    return "\n".join(["| licence | packages |", "|---|---|", *lines])


def test_every_dependency_stands_under_its_licence_in_third_party():
    """Rewrite the table with: python -m tests.test_supply_chain"""
    listed: dict[str, str] = {}
    text = (ROOT / "THIRD_PARTY.md").read_text().partition("<!-- dependencies -->")[2].partition("<!-- end -->")[0]
    for kind, names in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE):
        listed |= dict.fromkeys(names.split(", "), kind)
    for name in sorted(needed()):
        assert listed.get(name) == licence(name), f"{name}: {licence(name)}; run python -m tests.test_supply_chain"


def pinned() -> set[str]:
    """Names in requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {key(line.partition("==")[0]) for line in lines if "==" in line}


def test_every_dependency_is_pinned():
    assert not needed() - pinned()


def test_every_pin_is_a_dependency():
    """What a dependency brought along and no longer does would be reviewed for nothing."""
    if sys.platform != "linux" or not {"tensorflow", "torch", "jinja2", "ray", "pytest"} <= needed():
        pytest.skip("other systems need less, and not every extra is installed")
    assert not {name for name in pinned() - needed() if not name.startswith(NOT_OURS)}


def test_containers_only_call_make_setup():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("RUN")] == ["RUN make setup"]
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert [value for key, value in settings.items() if key.endswith("Command")] == ["make setup"]


@pytest.mark.parametrize("torch", [False, True], ids=["tf", "torch"])
def test_importing_everything_asks_no_network(torch):
    """Every package is imported in one of two processes: those of PyTorch, and all others."""
    code = """
        import importlib, pkgutil, sys

        def hook(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
                print("network:", importing, event, arguments, file=sys.stderr)
                sys.stderr.flush()
                import os
                os._exit(7)

        sys.addaudithook(hook)
        for package in sys.argv[1:]:
            importing = package
            path = importlib.import_module(package).__path__
            found = [m.name for m in pkgutil.walk_packages(path, package + ".")]
            for importing in found:
                if not importing.endswith("__main__"):
                    importlib.import_module(importing)
            print(package, len(found))
    """
    packages = [package for package in PACKAGES if package.endswith("_torch") == torch]
    words = [sys.executable, "-c", textwrap.dedent(code), *packages]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = dict(line.split() for line in done.stdout.splitlines()[-len(packages) :])
    assert counts.keys() == set(packages) and all(int(count) >= 8 for count in counts.values())


def test_a_test_that_asks_for_network_fails(tmp_path):
    """Whatever is caught on the way; this machine's own servers can be reached."""
    code = """
        import socket
        from contextlib import suppress

        def test_own():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(("localhost", server.getsockname()[1])).close()

        def test_name():
            socket.getaddrinfo("host.invalid", 80)

        def test_swallowed():
            with suppress(OSError), socket.socket() as other:
                other.connect(("192.0.2.1", 9))
    """
    (tmp_path / "test_network.py").write_text(textwrap.dedent(code))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", f"--rootdir={tmp_path}", str(tmp_path)]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    assert "2 failed, 1 passed" in said, said
    assert "asked for network: socket.getaddrinfo host.invalid" in said
    assert "asked for network: socket.connect 192.0.2.1" in said


def _write() -> None:
    path = ROOT / "THIRD_PARTY.md"
    head, mark, rest = path.read_text().partition("<!-- dependencies -->")
    path.write_text(f"{head}{mark}\n{table()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    _write()
