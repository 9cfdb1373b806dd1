"""The README's code runs and its commands parse."""

import re
import shlex
import subprocess
import sys

import pytest

from subclass_torch import flags
from subclass_torch.yt8m import flags as yt8m_flags

from .conftest import ROOT

TEXT = (ROOT / "subclass_torch" / "README.md").read_text()


def test_use_from_own_code():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    lines = [line for line in code.splitlines() if "import" not in line and not line.startswith(" ")]
    assert len(lines) <= 11
    found: dict = {}
    exec(code, found)
    assert len(found["images"]) == 64 + 32 and found["weights"].shape == (6, 6)
    assert found["labels"].max() == 5 and (found["degree"] >= 1 - 1e-6).all()


COMMANDS = re.findall(r"^(?:python|torchrun).*subclass_torch/notebook\w*\.py.*$", TEXT, re.M)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, capsys):
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    module = yt8m_flags if "yt8m" in words[at] else flags
    with pytest.raises(SystemExit) as ended:
        module.parse([*words[at + 1 :], "--print-config"])
    assert ended.value.code == 0 and '"seed"' in capsys.readouterr().out


def test_there_are_commands():
    assert len(COMMANDS) >= 7


def test_plan_lists_every_command():
    argv = [sys.executable, "-m", "subclass_torch.reproduce", "--profile", "cpu", "--seeds", "0 1", "--plan"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    lines = [line.partition("python ")[2] for line in done.stdout.splitlines() if " python " in line]
    assert done.returncode == 0 and len(lines) == 6
    for line in lines:
        assert "--stage" in line or "-baseline" in line
        with pytest.raises(SystemExit) as ended:
            flags.parse([*shlex.split(line)[1:], "--print-config"])
        assert ended.value.code == 0
