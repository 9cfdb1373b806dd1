"""What `make` asks becomes a request: seeds, data sets, copies of them; every paper's commands follow it."""

from __future__ import annotations

import importlib
import socket
import subprocess
import urllib.error
import urllib.request
from argparse import ArgumentTypeError, Namespace
from dataclasses import replace

import pytest

from datasets import fashion_mnist
from reproduction.compare.__main__ import main as compare_main
from reproduction.compare.collect import RESULTS
from reproduction.launch import after_run, pipeline
from reproduction.launch.jobs import Command
from reproduction.launch.pipeline import Reproduction, Request, request_of
from reproduction.launch.sweep import FOLDERS
from reproduction.runtime import driver
from reproduction.runtime.flags import device
from reproduction.runtime.run_folder import REPO_ROOT, UserError

ASKED = {"profile": "cpu", "dataset": "cifar100", "seeds": "", "device": "cpu", "args": "", "force": False}
SMALL = Reproduction("any", "any_torch", "torch", lambda request: [], {"cpu": "mnist5k"}, 0)


def asked(**changed: str) -> Request:
    return request_of(Namespace(**{**ASKED, "data_dir": "", "copy": "", "rows": "core", **changed}), SMALL)


@pytest.mark.parametrize("paper", FOLDERS)
def test_a_named_copy_of_the_data_is_accepted_by_every_training_and_names_its_rows(paper):
    module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    official, copy = (module.commands_of(asked(copy=name)) for name in ("", "q90"))
    assert not any("--accept-unverified" in command.flags for command in official)
    assert all("--accept-unverified" in command.flags for command in copy if "--summary" not in command.flags)
    assert [c.row.replace("cifar100-q90-", "cifar100-") for c in copy] == [c.row for c in official]
    assert all("cifar100-q90-cpu" in str(c.folder) for c in copy)
    assert not {c.folder for c in copy} & {c.folder for c in official}


@pytest.mark.parametrize(
    ("dataset", "own", "said"),
    [
        ("cifar10", 0.2, "0.2 GB to download"),
        ("svhn", None, "1.6 GB of images to download"),
        ("birds", None, "size of the download not known"),
        ("folder:x", None, "no download beyond DATASET's"),
    ],
)
def test_the_plan_counts_what_the_data_set_has_to_download(capsys, dataset, own, said):
    pipeline._print_plan("subclass", Request("paper", dataset, (0,), "cpu"), [], own)
    assert f", {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"copy": "a/b"}, "--copy: 'a/b' is not a name"),
        ({"copy": "my copy"}, "--copy: 'my copy' is not a name"),
        ({"seeds": "0 0"}, "--seeds: '0 0' names a seed twice"),
        ({"seeds": "-1"}, "--seeds: '-1' is not a whole number >= 0 and <= 4294967295"),
        ({"seeds": "x"}, "--seeds: 'x' is not a whole number"),
        ({"args": "--margin '0.3"}, "--args: .* cannot be split into flags .No closing quotation"),
        ({"dataset": "cifar11"}, "--dataset: .*cifar11"),
        ({"rows": "settings"}, "--rows: settings are chosen for the profile matched, not for cpu"),
    ],
)
def test_what_cannot_be_is_one_line(wrong, said):
    with pytest.raises(UserError, match=said):
        asked(**wrong)


def test_seeds_and_places():
    assert asked(seeds="3, 1").seeds == (3, 1) and asked().seeds == (0, 1, 2)
    assert asked(data_dir="there").shared_flags("r")[-2:] == ("--data-dir", "there")


def test_after_a_run_its_own_rows_are_shown_and_the_way_to_the_others(make, tmp_path, monkeypatch, capfd):
    metrics = {"fc_accuracy": make.metric(0.96), "lh_accuracy": make.metric(0.95)}
    make.put(tmp_path / "class2str", make.record(metrics, row="mnist5k-cpu"))
    monkeypatch.setattr(after_run, "RUNS_ROOT", tmp_path)
    assert after_run.compare_runs("class2str") == 0
    printed = capfd.readouterr().out
    assert "96.00 (1)" in printed and "make compare PAPER=class2str" in printed
    assert "cifar10-cpu" not in printed and "mnist-paper" not in printed  # committed rows, rows that were not run


def test_every_comparison_after_a_run_fits_one_screen(monkeypatch, capfd):
    monkeypatch.setattr(after_run, "RUNS_ROOT", RESULTS)
    for paper in FOLDERS:
        assert after_run.compare_runs(paper) == 0
        lines = capfd.readouterr().out.splitlines()
        assert 10 < len(lines) <= 40 and max(map(len, lines)) <= 120, paper
        assert f"make compare PAPER={paper} RUNS=" in lines[-2]


def test_the_long_form_has_the_lines_that_the_short_one_leaves_out(capsys):
    runs = ["--paper", "class2str", "--runs", str(RESULTS / "class2str")]
    lengths = []
    for words in ([], ["--short"]):
        assert compare_main([*words, *runs]) == 0
        lengths.append(len(capsys.readouterr().out.splitlines()))
    assert lengths[0] > 3 * lengths[1]


@pytest.mark.parametrize("paper", FOLDERS)
def test_a_run_ends_with_three_next_steps_that_are_commands(paper):
    module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    for dataset, profile in (("mnist5k", "cpu"), ("folder:photos", "cpu"), ("cifar10", "matched")):
        request = Request(profile, dataset, (0,), "cpu")
        head, *steps = pipeline.next_steps(module.REPRODUCTION, request)
        assert head == "next steps:" and len(steps) == 3 and all(len(step) <= 120 for step in steps)
        targets = [step.split()[1] for step in steps]
        assert set(targets) <= {f"reproduce-{paper}", "report"} and all(step.startswith("  make ") for step in steps)
        assert any("folder:PATH" in step for step in steps) == (dataset != "folder:photos")
        assert any("PROFILE=matched" in step for step in steps) == (profile != "matched")


def test_next_steps_stay_in_the_environment_that_has_cuda(monkeypatch):
    monkeypatch.setattr(pipeline.sys, "prefix", "/somewhere/.venv-tf")
    module = importlib.import_module("triplet_tf.reproduce")
    _, *steps = pipeline.next_steps(module.REPRODUCTION, Request("cpu", "mnist5k", (0,), "cpu"))
    assert all(" GPU=1 " in step and len(step) <= 120 for step in steps)


@pytest.mark.parametrize("path", ["photos", "./photos", "/home/me/photos", "photos/"])
def test_a_folders_rows_are_named_after_it_however_it_is_spelled(path):
    assert Request("cpu", f"folder:{path}", (0,), "cpu").row() == "photos-cpu"
    assert Request("cpu", "csv:mine", (0,), "cpu").row() == "csv_mine-cpu"


def test_a_hidden_gpu_is_not_visible(monkeypatch):
    monkeypatch.setattr(driver, "first_gpu", lambda: "NVIDIA Card 1")
    matched = Request("matched", "cifar10", (0,))
    for hidden in (False, True):
        if hidden:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        else:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        words = {**ASKED, "profile": "auto", "device": "auto", "data_dir": "", "copy": "", "rows": "core"}
        asked_for = request_of(Namespace(**words), replace(SMALL, datasets=dict.fromkeys(("paper", "cpu"), "cifar10")))
        assert asked_for.profile == ("cpu" if hidden else "paper")
        assert pipeline.on_gpu(matched) == (not hidden)


@pytest.mark.parametrize(
    ("device", "listed", "hides"), [("auto", True, True), ("auto", False, False), ("cuda", True, False)]
)
def test_small_profiles_leave_a_gpu_alone_unless_asked(device, listed, hides, monkeypatch, capfd):
    monkeypatch.setattr(pipeline, "visible_gpu", lambda: listed)
    script = Command("row", "stage", "-c", (), REPO_ROOT)
    (command,) = pipeline.one_thread_each(Request("cpu", "mnist5k", (0,), device), [script])
    assert command.environment.get("CUDA_VISIBLE_DEVICES") == ("" if hides else None)
    assert ("CUDA_VISIBLE_DEVICES= python" in command.line()) == hides
    (large,) = pipeline.one_thread_each(Request("matched", "mnist5k", (0,), device), [script])
    assert "CUDA_VISIBLE_DEVICES" not in large.environment


@pytest.mark.parametrize("offline", ["", "1"])
@pytest.mark.parametrize("paper", FOLDERS)
def test_a_missing_network_is_one_short_line_with_the_command_that_needs_none(
    paper, offline, tmp_path, monkeypatch, capfd
):
    def no_host(request, timeout):
        raise urllib.error.URLError(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))

    monkeypatch.setenv("DATASETS_OFFLINE", offline)
    monkeypatch.setattr(urllib.request, "urlopen", no_host)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    module = importlib.import_module(f"{FOLDERS[paper]}.reproduce")
    asked_for = ["--profile", "cpu", "--device", "cpu", "--dataset", "fashion_mnist", "--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        pipeline.run(module.REPRODUCTION, asked_for)
    assert ended.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "network" in line]
    assert line.endswith(f": make reproduce-{paper} PROFILE=cpu DATASET=mnist5k") and len(line) < 300


def test_a_run_that_has_finished_asks_for_no_data(tmp_path):
    (tmp_path / "DONE").write_text("{}")
    request = Request("cpu", "fashion_mnist", (0,), "cpu", data_dir=str(tmp_path / "none"))
    pipeline.fetch_data("hierarchy", request, [Command("row", "stage", "x.py", (), tmp_path)])
    assert not (tmp_path / "none").exists()


def test_the_page_to_open_holds_the_runs_of_any_data_set(make, tmp_path, monkeypatch):
    metrics = {"fc_accuracy": make.metric(0.96), "lh_accuracy": make.metric(0.95)}
    make.put(tmp_path / "class2str", make.record(metrics, row="photos-cpu"))
    monkeypatch.setattr(after_run, "RUNS_ROOT", tmp_path)
    page = after_run.write_page("class2str")
    text = (tmp_path / "class2str" / "report.html").read_text(encoding="utf-8")
    assert page.endswith("report.html") and "photos-cpu" in text and "96.00" in text
    assert "These runs test no main claim" in text and "More levels than HD-CNN" not in text  # needs ImageNet
    assert after_run.write_page("subclass") is None  # no run of it


def test_make_without_arguments_starts_with_what_most_people_want():
    lines = subprocess.run(["make"], cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "what most people want:" and all(line.startswith("  make ") for line in lines[1:6])
    assert lines[6] == "" and len(lines) <= 40 and max(map(len, lines)) <= 120
    targets = {line.split()[0] for line in lines[8:] if line.startswith("  ")}
    assert {"reproduce-<paper>", "data-<set>", "plan", "compare", "report", "sweep", "clean-data"} <= targets


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """stages(codes) -> a reproduction whose commands end with these exit codes, and the codes of those that ran."""
    script, log = tmp_path / "stage.py", tmp_path / "log"
    script.write_text("import sys\nopen(sys.argv[1], 'a').write(sys.argv[2] + ' ')\nsys.exit(int(sys.argv[2]))\n")
    log.touch()
    compared = []
    monkeypatch.setattr(pipeline, "compare_runs", lambda paper: compared.append(paper) or 4)
    monkeypatch.setattr(pipeline, "write_page", lambda paper: compared.append(paper) or "there/report.html")

    def commands_of(codes):
        return [
            Command("row", f"stage {code}", str(script), (str(log), str(code)), tmp_path / f"run{code}", 30, 90)
            for code in codes
        ]

    def reproduction(*codes):
        sets = {"paper": "cifar10", "matched": "cifar10", "cpu": "mnist5k"}
        close = {"closing": lambda request: f"closing line of {request.dataset}"}
        return Reproduction("any", "any_torch", "torch", lambda _: commands_of(codes), sets, 1.5, **close)

    return reproduction, lambda: (log.read_text().split(), compared)


def test_a_finished_run_names_its_page_and_what_comes_next_and_ends_as_the_comparison(stages, monkeypatch, capfd):
    reproduction, ran = stages
    argv = ["--profile", "cpu", "--device", "cpu", "--seeds", "3 5"]
    with pytest.raises(SystemExit) as ended:
        pipeline.run(reproduction(0, 0), argv)
    assert ended.value.code == 4 and ran() == (["0", "0"], ["any", "any"])
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "any: profile cpu, data set mnist5k, seeds 3 5"
    end = next(at for at, line in enumerate(lines) if line.startswith("all stages finished after "))
    assert lines[end].endswith(f"; records under {pipeline.shown(pipeline.RUNS_ROOT / 'any')}")
    assert lines[end + 1 : end + 6] == ["", "", "open in a browser: there/report.html", "closing line of mnist5k", ""]
    head, *steps = (" ".join(line.split()) for line in lines[end + 6 :])
    assert head == "next steps:" and steps == [
        "make reproduce-any PROFILE=matched accurate enough to judge, about 3 hours on two cores",
        "make reproduce-any PROFILE=paper the paper's own settings, about 60 GPU hours, 1.5 GB to download",
        "make reproduce-any DATASET=folder:PATH your own images, one sub-folder for each class",
    ]
    monkeypatch.setattr(pipeline, "write_page", lambda paper: "")  # Jinja2 is not installed
    with pytest.raises(SystemExit):
        pipeline.run(replace(reproduction(), closing=lambda request: ""), argv)
    assert "\n\n\n\nnext steps:\n" in capfd.readouterr().out
    monkeypatch.setattr(pipeline, "compare_runs", lambda paper: 0)
    for page, code in (("", 0), (None, 1)):
        monkeypatch.setattr(pipeline, "write_page", lambda paper, page=page: page)
        with pytest.raises(SystemExit) as ended:
            pipeline.run(reproduction(), argv)
        assert ended.value.code == code


@pytest.mark.parametrize(("code", "force"), [(2, []), (3, []), (3, ["--force"])])
def test_a_failed_command_is_named_and_nothing_runs_after_it(stages, tmp_path, capfd, code, force):
    reproduction, ran = stages
    with pytest.raises(SystemExit) as ended:
        pipeline.run(reproduction(0, code, 1), ["--profile", "cpu", "--device", "cpu", *force])
    first = "correct what the error above names, then " if code == 2 else ""
    assert ended.value.code == (  # a text: it is printed, and the exit code is 1
        f"any_torch.reproduce: stopped: stage {code} ended with exit code {code}; "
        f"{first}the same make command{' without FORCE=1' * len(force)} goes on from here ({tmp_path / f'run{code}'})"
    )
    assert ran() == (["0", str(code)], [])  # neither a third command nor a comparison
    printed = capfd.readouterr().out
    assert "all stages finished" not in printed and "next steps" not in printed


def test_an_interrupted_download_ends_in_one_line_and_the_exit_code_of_ctrl_c(stages, monkeypatch, capfd):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "get_files", interrupted)
    with pytest.raises(SystemExit) as ended:
        pipeline.run(stages[0](0), ["--profile", "cpu", "--device", "cpu"])
    assert ended.value.code == 130 and capfd.readouterr().err == "\ninterrupted; the same command goes on\n"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:\u00b2", "cuda:-1"])
def test_a_device_is_a_name_or_a_number_that_can_be_read(name):
    with pytest.raises(ArgumentTypeError, match="is not auto, cpu, cuda or cuda:N"):
        device(name)


def test_a_wrong_device_is_found_before_anything_is_downloaded(stages, monkeypatch, capfd):
    monkeypatch.setattr(pipeline, "get_files", lambda *_: pytest.fail("downloads"))
    with pytest.raises(SystemExit) as ended:
        pipeline.run(stages[0](0), ["--profile", "cpu", "--device", "gpu"])
    assert ended.value.code == 2 and "--device: 'gpu' is not auto, cpu, cuda or cuda:N" in capfd.readouterr().err


def test_the_papers_profile_needs_a_gpu_that_the_framework_sees(stages, monkeypatch, capfd):
    """Such as a driver next to a framework built without CUDA: the run would take days on the CPU."""
    reproduction, ran = stages
    monkeypatch.setattr(pipeline, "on_gpu", lambda request: request.device != "cpu")
    asked_for = []
    monkeypatch.setattr(pipeline, "_framework_sees_gpu", asked_for.append)
    monkeypatch.setattr(pipeline, "get_files", lambda *_: asked_for.append("files"))
    with pytest.raises(SystemExit) as ended:
        pipeline.run(reproduction(0), ["--profile", "paper"])
    assert ended.value.code == 2 and ran() == ([], []) and asked_for == ["torch"]
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert "PROFILE=paper needs a CUDA GPU and torch sees none; PROFILE=cpu runs the same stages in minutes" in line
    assert "DEVICE=cpu runs the paper's own settings here, for days" in line and not printed.out
    for words in (["--profile", "paper", "--device", "cpu"], ["--profile", "cpu"]):
        asked_for.clear()
        with pytest.raises(SystemExit):
            pipeline.run(reproduction(0), words)
        assert asked_for == ["files"]
    assert ran()[0] == ["0", "0"]
