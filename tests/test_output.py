"""What is printed or written does not depend on the locale, and cannot end a program."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets import folder, lists
from datasets.core import DatasetError
from reproduction.runtime.record import make_record
from tests.test_layout import ROOT, SOURCES

LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "iso-8859-1"}]
BINARY_READERS = {"Image", "archive", "bz2", "gzip", "lzma", "os", "tarfile"}  # their `open` reads no text
TOOLS = [path for folder in ("soak", "fuzz") for path in sorted((ROOT / "tests" / folder).glob("*.py"))]


def in_locale(*words: object, locale: dict[str, str] = LOCALES[0]) -> subprocess.CompletedProcess[bytes]:
    """Runs this interpreter without UTF-8 mode and without locale coercion."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    env = {**kept, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1", **locale}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, timeout=300)


def without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text in the locale's encoding."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        keywords = {keyword.arg for keyword in call.keywords}
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        mode = call.args[0 if owner else 1 :][:1] + [k.value for k in call.keywords if k.arg == "mode"]
        text = not any(
            isinstance(part, ast.Constant) and "b" in str(part.value) for at in mode for part in ast.walk(at)
        )
        opens = name in ("open", "fdopen") and owner not in BINARY_READERS and text
        path_method = name in ("read_text", "write_text") and owner and len(call.args) < 2
        tables = name in ("loadtxt", "savetxt", "genfromtxt")
        child = name in ("run", "Popen", "check_output") and keywords & {"text", "universal_newlines", "errors"}
        if (opens or path_method or tables or child) and "encoding" not in keywords:
            yield call


def test_every_text_file_has_an_encoding():
    assert len(TOOLS) > 10
    found = {path: without_encoding(ast.parse(path.read_text(encoding="utf-8"))) for path in [*SOURCES, *TOOLS]}
    lines = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path, calls in found.items()
        for call in calls
    ]
    assert not lines, "\n".join(lines)


def test_the_search_for_encodings_finds_what_it_should():
    text = "open(p); open(p, 'w'); p.open(); p.read_text(); p.write_text(s); np.loadtxt(p); run(c, text=True)"
    binary = "open(p, 'rb'); open(p, 'ab' if s else 'wb'); p.open('rb'); gzip.open(p); export.write_text(p, s); run(c)"
    assert len(list(without_encoding(ast.parse(text)))) == 7
    assert not list(without_encoding(ast.parse(binary)))


@pytest.mark.parametrize("locale", LOCALES, ids=["ascii", "latin-1"])
def test_the_viewer_is_the_same_in_every_locale(tmp_path, locale):
    np.save(tmp_path / "m.npy", np.diag([3, 4, 5]) + 1)
    (tmp_path / "n.txt").write_text("café\n猫\n🐈\n", encoding="utf-8")
    words = [
        "-m",
        "hierarchy_cnn_torch.viewer.export",
        "--confusion",
        tmp_path / "m.npy",
        "--names",
        tmp_path / "n.txt",
    ]
    done = in_locale(*words, "--out", tmp_path / "v.html", locale=locale)
    assert done.returncode == 0, done.stderr
    from tests.hierarchy.viewer_page import read_page

    assert read_page(tmp_path / "v.html")[0]["names"] == ["café", "猫", "🐈"]
    page = (tmp_path / "v.html").read_text(encoding="utf-8")
    for file in ("template.html", "style.css"):
        source = (ROOT / "hierarchy_cnn_torch" / "viewer" / file).read_text(encoding="utf-8")
        assert all(character in page for character in source if not character.isascii())


def test_tables_and_names_print_in_a_c_locale(tmp_path):
    done = in_locale("-m", "reproduction.compare", "--paper", "hierarchy")
    assert done.returncode == 0 and b"hierarchy" in done.stdout.lower(), done.stderr
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom reproduction.runtime.flags import run_main\n"
        "run_main(lambda: print('class \\U0001f408 \\udce9'))\n",
        encoding="utf-8",
    )
    done = in_locale(script)
    assert done.returncode == 0 and done.stdout == b"class \\U0001f408 \\udce9\n", done.stderr


SCRIPTS = [
    "class2str_tf/train_fc_classifier.py",
    "subclass_torch/notebook.py",
    "finegrained_torch/pipeline.py",
    "triplet_tf/fast_fgvr_semi_train.py",
    "hierarchy_cnn_torch/train.py --out runs/x",
    "hierarchy_cnn_torch/analyze.py --run runs/x",
]


@pytest.mark.parametrize("line", [*(f"{script} --print-config" for script in SCRIPTS), "-m datasets"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_a_script_quietly(line, unbuffered):
    command, env = [sys.executable, *line.split()], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)  # as `| head` that has seen enough
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=write, stderr=subprocess.PIPE, timeout=100)
    finally:
        os.close(write)
    assert done.stderr == b"" and done.returncode == 141


def test_another_broken_pipe_is_no_quiet_end():
    from datasets.terminal import any_terminal

    with pytest.raises(BrokenPipeError), any_terminal():
        raise BrokenPipeError("a worker's")


def folder_of_pictures(top: Path, *names: str) -> Path:
    """Class folders of these names, five small pictures each."""
    from PIL import Image

    for name in names:
        (top / name).mkdir(parents=True)
        for at in range(5):
            Image.new("RGB", (8, 8), (40 * at, 0, 0)).save(top / name / f"{at}.png")
    return top


def test_a_class_folder_whose_name_is_not_utf8_is_one_line_at_loading(tmp_path):
    place = folder_of_pictures(tmp_path / "set", "tea", os.fsdecode(b"caf\xe9"))
    for load in (folder.load, lists.from_folder):
        with pytest.raises(DatasetError, match=r"caf\\udce9': this name is not UTF-8; rename it"):
            load(place)


def test_class_names_are_read_alike_in_a_c_locale(tmp_path):
    folder_of_pictures(tmp_path / "set", "tea", "café")
    code = "import sys; from pathlib import Path; from datasets import folder, lists; place = Path(sys.argv[1]);"
    code += "print(ascii([folder.load(place, Path(sys.argv[2])).class_names, lists.from_folder(place).class_names]))"
    done = in_locale("-c", code, tmp_path / "set", tmp_path)
    assert done.stdout.decode().strip() == ascii([("café", "tea")] * 2), done.stderr


def test_a_path_that_is_not_utf8_does_not_cost_the_record():
    odd = os.fsdecode(b"caf\xe9")
    fields = {"paper": "p", "row": None, "stage": "s", "seed": 0, "metrics": {}, "seconds": 1, "data": {}}
    fields |= {"data_verified": False, "deviations": [], "versions": {}, "deterministic": True}
    made = make_record(**fields, argv=["x.py", f"--name={odd}"], config={"dataset": f"folder:/x/{odd}"})
    assert made.model_dump(mode="json")["argv"] == ["x.py", "--name=caf\\udce9"]
