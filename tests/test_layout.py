"""Rules that hold for the whole repository: direction of imports, pins, README commands, size of files."""

from __future__ import annotations

import ast
import io
import re
import shlex
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ("class2str_tf", "subclass_torch", "finegrained_torch", "triplet_tf", "hierarchy_cnn_torch")
SOURCES = [
    path
    for folder in (*PAPERS, "datasets", "reproduction", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def faults_of(path: Path) -> Iterator[str]:
    """What a source file does against the direction of imports and the limit of its length."""
    package, names = path.relative_to(ROOT).parts[0], imported(path)
    ours = names & {*PAPERS, "datasets", "reproduction", "benchmarks", "tests"}
    allowed = {
        "datasets": {"datasets"},
        "reproduction": {"datasets", "reproduction"},
        "benchmarks": {*PAPERS, "datasets", "reproduction", "benchmarks", "tests"},  # the viewer's browser helper
    }.get(package, {package, "datasets", "reproduction"})
    frameworks = {"tensorflow", "tf_slim"} if package.endswith("_torch") else {"torch", "lightning"}
    refused = ours - allowed | (names & frameworks if package in PAPERS else set())
    lines = len(path.read_text().splitlines())
    yield from (f"{path.relative_to(ROOT)}: imports {name}" for name in sorted(refused))
    yield from [f"{path.relative_to(ROOT)}: {lines} lines"] * (lines > 400)


def test_imports_go_one_way_and_files_stay_short():
    assert len(SOURCES) > 250
    faults = [fault for path in SOURCES for fault in faults_of(path)]
    assert not faults, "\n".join(faults)


def unformatted(source: str) -> list[int]:
    """Lines whose comment keeps the formatter from anything but the assignment of a literal table."""
    if "fmt:" not in source:  # of most files
        return []
    tables = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(
            node.value, (ast.Dict, ast.List, ast.Set, ast.Tuple)
        ):
            try:
                ast.literal_eval(node.value)
            except ValueError:
                continue
            tables.add(node.end_lineno)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT and re.search(r"# *fmt:", token.string)]
    return [token.start[0] for token in comments if token.start[0] not in tables or "skip" not in token.string]


def test_only_literal_tables_are_kept_from_the_formatter():
    paths = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in paths for line in unformatted(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    ["a = [1,2]  # fmt: skip", "a: dict = {'b':(1,-2),\n 'c':3}  # fmt: skip", "a = '# fmt: skip'"],
)
def test_a_literal_table_may_be_kept_from_the_formatter(source):
    assert not unformatted(source)


@pytest.mark.parametrize(
    "source",
    [
        "a = f(1,2)  # fmt: skip",
        "a = [b,2]  # fmt: skip",
        "a = 1  # fmt: skip",
        "# fmt: off\na = [1,2]",
        "def f(a,\n b): ...  # fmt: skip",
    ],
)
def test_anything_else_kept_from_the_formatter_would_be_seen(source):
    assert unformatted(source)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_ignores_no_source_file_and_a_linked_environment():
    def ignored(*arguments: str) -> set[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        return set(subprocess.run(command, capture_output=True, text=True).stdout.splitlines())

    packages = (*PAPERS, "datasets", "reproduction", "benchmarks", "tests")
    rooms = [f"{package}/{room}/x.py" for package in packages for room in ("data", "runs", "build", "dist")]
    assert not ignored("check-ignore", "--no-index", *rooms)
    assert not ignored("ls-files", "--others", "--ignored", "--exclude-standard", "--", "*.py") & {
        str(path.relative_to(ROOT)) for path in SOURCES
    }
    assert ignored("check-ignore", "--no-index", "data/x.py", "runs/x", ".venv") == {"data/x.py", "runs/x", ".venv"}


def test_datasets_is_ours_in_a_script():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import datasets; print(datasets.__file__)"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd="/", capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / "datasets" / "__init__.py"


def test_lock_holds_plain_public_pins_of_everything_declared():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = {}
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
        name, _, version = line.partition("==")
        pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + [item for group in project["optional-dependencies"].values() for item in group]
    for requirement in declared:
        name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
        assert re.sub(r"[-_.]+", "-", name).lower() in pins, requirement
    assert set(project["optional-dependencies"]) == {"tf", "torch", "report", "cluster", "dev"}


def documents() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "docs" / "commands.md",
        *(ROOT / folder / "README.md" for folder in PAPERS if (ROOT / folder / "README.md").exists()),
    ]


def commands() -> list[str]:
    """Every `python <script> flags` line of a README's code blocks."""
    found = []
    for document in documents():
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if re.match(r"python \w+/\w+\.py", line) and "--eval" not in line and "predict" not in line:
                    found.append(line.partition("  #")[0].strip())
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_readme_commands_parse(line):
    words = shlex.split(line)[1:]
    extra = [] if "--print-config" in words else ["--print-config"]
    done = subprocess.run([sys.executable, *words, *extra], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_makefile_targets_named_in_the_readmes_exist():
    for document in documents():
        for target in set(re.findall(r"make ([a-z][a-z0-9-]+)", document.read_text())):
            done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{document.name}: make {target}: {done.stderr}"


@pytest.mark.parametrize("document", [d for d in documents() if d.name == "README.md"], ids=lambda p: p.parent.name)
def test_the_lines_for_ones_own_code_run(document):
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, "a README without its use from one's own code"
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_the_readme_is_short_and_starts_with_picture_commands_and_papers():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    cells = [cell for line in lines if line.startswith("|") for cell in line.strip("| ").split(" | ")]
    assert len(cells) > 100 and max(map(len, cells)) <= 120
    first = "\n".join(lines[:25])
    assert "docs/images/strip.png" in first and "make reproduce-class2str" in first and "make test" in first
    assert all(f"({folder}/README.md)" in first for folder in PAPERS)


def test_links_between_pages_lead_somewhere():
    broken = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        targets = [word for word in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"https?:|mailto:", word)]
        broken += [f"{document.name}: {word}" for word in targets if not (document.parent / word).exists()]
    assert not broken, "\n".join(broken)


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[\d.]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == version
