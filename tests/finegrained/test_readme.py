"""The README's code runs, its commands parse, and the benchmark's two formulations agree."""

import re
import shlex

import pytest

from finegrained_torch import flags

from .conftest import ROOT

TEXT = (ROOT / "finegrained_torch" / "README.md").read_text()
COMMANDS = re.findall(r"^python finegrained_torch/(?:main|pipeline)\.py.*$", TEXT, re.M)


def test_use_from_own_code():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    lines = [line for line in code.splitlines() if "import" not in line and not line.startswith((" ", "#"))]
    assert len([line for line in lines if line]) <= 11
    found: dict = {}
    exec(code, found)
    assert found["certain"].sum() == 216 and (found["clusters"].pseudo[~found["certain"]] == -1).all()
    assert found["scores"]["ari"] > 0.8  # well separated blobs


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, capsys):
    words = shlex.split(line)
    parse = flags.parse_main if words[1].endswith("main.py") else flags.parse_pipeline
    with pytest.raises(SystemExit) as ended:
        parse([*words[2:], "--print-config"])
    assert ended.value.code == 0 and '"seed"' in capsys.readouterr().out


def test_there_are_commands():
    assert len(COMMANDS) >= 7


def test_benchmark_compares_equal_things():
    from benchmarks import finegrained as bench

    pair = bench.uncertainty_pair(small=True)  # raises where the two differ
    assert pair.unit == "images/s" and len(pair.ratios) == 5
