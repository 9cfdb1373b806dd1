"""Side-by-side runs: one command per seed and arm, output led by its run, a failure ends the rest."""

import subprocess
import sys
from pathlib import Path

from hierarchy_cnn_torch import arms
from reproduction.runs import REPO_ROOT


def script(folder, text):
    path = folder / "s.py"
    path.write_text(text)
    return path


def test_a_command_for_every_seed_and_arm():
    lines = arms.command_lines(["A1", "fold0"], [0, 3], Path("top"), "{seed}/A0/tree.json", ["--lr", "1"])
    assert len(lines) == 4
    first, last = " ".join(lines[0]), " ".join(lines[-1])
    assert "--seed 0 --runs-dir top/seed0 --name A1 --arm A1 --tree top/seed0/A0/tree.json" in first
    assert "--seed 3 --runs-dir top/seed3 --name fold0 --fold 0" in last and "--arm" not in last


def test_runs_overlap_and_their_lines_are_led_by_their_name(tmp_path, capsys):
    path = script(tmp_path, "import time; time.sleep(1.0); print('hello')")
    lines = [[str(path), "--runs-dir", f"x/seed{n}", "--name", "A1"] for n in range(3)]
    assert arms.run_all(lines, 3) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [f"seed{n}/A1 | hello" for n in range(3)]


def test_a_failure_is_the_exit_code_and_nothing_new_is_started(tmp_path, capsys):
    path = script(tmp_path, "import sys; print('ran'); sys.exit(2)")
    lines = [[str(path), "--runs-dir", f"x/seed{n}", "--name", "A1"] for n in range(5)]
    assert arms.run_all(lines, 1) == 2
    assert capsys.readouterr().out.count("ran") == 1


def test_bad_arms_are_one_line():
    command = [sys.executable, str(REPO_ROOT / "hierarchy_cnn_torch" / "arms.py"), "--arms", "A9", "--seeds", "0"]
    answer = subprocess.run([*command, "--runs-dir", "x"], capture_output=True, text=True)
    assert answer.returncode == 2 and "--arms A9" in answer.stderr and len(answer.stderr.strip().splitlines()) == 1
