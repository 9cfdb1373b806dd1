"""The floor plan: the same room for the same thing in every paper, imports in one direction, no circles."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.test_layout import ROOT, SOURCES

ROOMS = {"data": "data", "networks": "networks", "method": "method", "training": "training"}
AUTHORS_ROOMS = {"data_sampling": "data", "nets": "networks", "ranking": "method", "training": "training"}
SEES = {  # room -> rooms of the same paper that it may import
    "method": {"method"},
    "data": {"data", "method", "flags"},
    "networks": {"networks", "method", "flags"},
    "training": {"training", "data", "networks", "method", "flags", "plots", "deviations"},
}
OUTSIDE_METHOD = {"reproduction", "datasets"}  # packages of ours that `method` must not need,
IMPORTERS = {"reproduction.runtime.tf", "reproduction.runtime.hidden"}  # but for how libraries are imported
MOVED: tuple[str, ...] = ("class2str_tf", "finegrained_torch", "hierarchy_cnn_torch", "subclass_torch", "triplet_tf")


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of ours that a file imports, anywhere in it; `from a import b` gives a.b where that is a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if file_of(inner) else node.module)
    return frozenset(name for name in names if file_of(name))


@cache
def file_of(name: str) -> Path | None:
    """The file of a module or package of ours, or None."""
    stem = ROOT.joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path in SOURCES), None)


def room_of(path: Path) -> str:
    """The room that holds a file: the folder's name in today's words, or the stem of a file next to the rooms."""
    parts = path.relative_to(ROOT).parts
    names = AUTHORS_ROOMS if parts[0] == "triplet_tf" else ROOMS
    if parts[0] == "triplet_tf" and parts[1] == "config":
        return "flags"
    return names.get(parts[1], parts[1]) if len(parts) > 2 else path.stem


def refused(path: Path) -> set[str]:
    """Rooms of its own paper that a file must not import, and for `method` other packages of ours."""
    paper, room = path.relative_to(ROOT).parts[0], room_of(path)
    own = {room_of(file) for name in imports(path) if name.startswith(f"{paper}.") and (file := file_of(name))}
    others = {name.partition(".")[0] for name in imports(path) - IMPORTERS} & OUTSIDE_METHOD
    return (own - {"__init__"} - SEES[room] if room in SEES else set()) | (others if room == "method" else set())


def test_a_room_sees_only_what_lies_below_it():
    paths = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in MOVED]
    assert len(paths) > 150
    found = [f"{path.relative_to(ROOT)}: imports {name}" for path in paths for name in sorted(refused(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("paper", MOVED)
def test_every_paper_has_the_rooms(paper):
    names = AUTHORS_ROOMS if paper == "triplet_tf" else ROOMS
    assert {room for room in names if (ROOT / paper / room / "__init__.py").exists()} == set(names)
    for file in ("README.md", "reproduce.py", "deviations.py", "plots.py", "training/record.py"):
        assert (ROOT / paper / file).exists(), file


def circles() -> list[list[str]]:
    """Groups of files that import each other in a circle (Tarjan's strongly connected components)."""
    files = {path: {file for name in imports(path) if (file := file_of(name))} for path in SOURCES}
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    groups = []

    def visit(path: Path) -> None:
        index[path] = low[path] = len(index)
        stack.append(path)
        for other in files[path]:
            if other not in index:
                visit(other)
                low[path] = min(low[path], low[other])
            elif other in stack:
                low[path] = min(low[path], index[other])
        if low[path] == index[path]:
            group = []
            while not group or group[-1] != path:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(str(member.relative_to(ROOT)) for member in group))

    for path in SOURCES:
        if path not in index:
            visit(path)
    return groups


def test_no_files_import_each_other_in_a_circle():
    assert not circles()


def test_a_circle_would_be_seen(monkeypatch):
    a, b = SOURCES[:2]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in (a, b)]
    monkeypatch.setitem(globals(), "imports", lambda path: {a: {names[1]}, b: {names[0]}}.get(path, frozenset()))
    assert circles() == [sorted(str(path.relative_to(ROOT)) for path in (a, b))]
