"""README, deviations and tables agree with the code."""

import dataclasses
import json
import re
import shlex
import shutil
import tomllib

import numpy as np
import pytest

from datasets import image_folders
from hierarchy_cnn_torch import deviations, flags, reproduce
from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.viewer import export
from reproduction.launch.pipeline import Request
from reproduction.runtime.record import profile_of
from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests.changing_pictures import write_pictures
from tests.test_deviation_pages import rows

README = (REPO_ROOT / "hierarchy_cnn_torch" / "README.md").read_text()
PARSERS = {
    "train.py": flags.train_parser,
    "analyze.py": flags.analyze_parser,
    "hierarchy_cnn_torch.viewer.export": export.parser,
}


def test_the_readmes_ten_lines_run(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    exec(compile(code, "README", "exec"), {})
    assert float(capsys.readouterr().out) > 2


@pytest.mark.parametrize("line", re.findall(r"^    ((?:python|torchrun) .*)$", README, re.M))
def test_every_readme_command_parses(line):
    words = shlex.split(line.split("  #")[0])
    at = next(i for i, word in enumerate(words) if word.endswith((".py", "viewer.export")))
    parser = PARSERS[words[at].split("/")[-1]]()
    args = parser.parse_args(words[at + 1 :])
    if words[at].endswith("train.py"):
        flags.resolve_train(args)


@pytest.mark.parametrize("profile", ["paper", "cpu", "smoke"])
def test_every_profiles_commands_parse(profile, monkeypatch):
    monkeypatch.setattr(flags.Path, "exists", lambda self: True)
    request = Request(profile, reproduce.DATASETS[profile], (0, 1, 2), "cpu", ("--lambda", "0.5"))
    commands = reproduce.commands_of(request)
    runs = [command.flags for command in commands if command.script.endswith("train.py")]
    for command in commands:
        if command.script.endswith("analyze.py"):
            flags.resolve_analyze(flags.analyze_parser().parse_args(list(command.flags)))
    for words in runs:
        flags.resolve_train(flags.train_parser().parse_args(list(words)))
    assert len([words for words in runs if "--arm" in words]) == 18
    folders = [words[words.index("--runs-dir") + 1] + words[words.index("--name") + 1] for words in runs]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("profile", reproduce.DATASETS)
def test_every_profile_trains_on_a_folder_of_few_images_and_classes(profile, tmp_path):
    pictures = write_pictures(tmp_path / "photos", count=20)
    request = Request(profile, f"folder:{pictures}", (0,), "cpu", data_dir=str(tmp_path / "data"))
    with pytest.raises(UserError, match="2 classes; groups of classes need at least 3"):
        reproduce.commands_of(request)
    shutil.copytree(pictures / "dark", pictures / "third")
    commands = [command.flags for command in reproduce.commands_of(request) if command.script.endswith("train.py")]
    assert len(commands) >= 3
    for words in commands:
        tree = ["--tree", "derived", "--label-noise", "0"]  # stage 1 makes the tree of the label study
        config = flags.resolve_train(flags.train_parser().parse_args([*words, *tree]))
        data = images.load(config)
        assert len(data.train) >= len(data.val) > 0
        assert len(data.names) == 3 + (config.split_class >= 0)


@pytest.mark.parametrize(("dataset", "groupings"), [("cifar100", 40), ("cifar10", 210)])
@pytest.mark.parametrize("profile", ["paper", "matched"])
def test_early_probes_are_compared_with_as_many_groupings_as_the_claims_say(profile, dataset, groupings):
    for command in reproduce.commands_of(Request(profile, dataset, (0,), "cpu")):
        if command.script == reproduce.ANALYZE_SCRIPT and "--run" in command.flags:
            config = flags.resolve_analyze(flags.analyze_parser().parse_args(list(command.flags)))
            assert config.groupings == groupings


def test_a_folder_of_many_images_and_classes_keeps_the_flags_of_every_set(monkeypatch, tmp_path):
    listed = image_folders.Images("folder:x", tuple("abcde"), {"": (["a/1.png"] * 10_000, np.zeros(10_000))})
    monkeypatch.setattr(image_folders, "read", lambda path: listed)
    assert reproduce.for_folder("folder:x", "cpu") == ([], [])
    monkeypatch.undo()
    with pytest.raises(UserError, match="no such folder"):
        reproduce.for_folder(f"folder:{tmp_path / 'none'}", "cpu")


def test_matched_runs_the_core_rows_first_and_one_rate_for_every_network_with_branches():
    request = Request("matched", "cifar100", (0, 1, 2, 3, 4), "cpu", copy="q90")
    core = reproduce.commands_of(request)
    assert {command.row for command in core} == {"cifar100-q90-matched"} and core[-1].worker is None
    every = reproduce.commands_of(dataclasses.replace(request, all_rows=True))
    assert every[: len(core)] == core
    rows = list(dict.fromkeys(command.row.removeprefix("cifar100-q90-matched") for command in every))
    assert rows == ["", "-labels", "-derived", "-long", "cifar10-matched"]
    trained: dict = {}
    for command in every:
        if command.script == reproduce.TRAIN_SCRIPT:
            config = flags.resolve_train(flags.train_parser().parse_args(list(command.flags)))
            trained.setdefault((command.row, config.arm), []).append(config)
            # what is studied on held-out images must hold some out
            chosen = command.row.endswith(("-labels", "-derived"))
            assert config.train_held_out != chosen and config.bn and config.lr_schedule == "onecycle"
            assert config.lr == (reproduce.FLAT_RATE if config.arm in ("A0", "A5") else reproduce.AWARE_RATE)
    main = [(arm, len(configs)) for (row, arm), configs in trained.items() if row == "cifar100-q90-matched"]
    assert main == [("A0", 5), ("A1", 5), ("A2", 5), ("A3", 3), ("A5", 3), ("A4", 3)]
    assert len(trained["cifar100-q90-matched-labels", "A0"]) == 10
    assert all(config.tree == "derived" for config in trained["cifar100-q90-matched-derived", "A1"])
    ten = reproduce.commands_of(dataclasses.replace(request, dataset="cifar10", copy="", all_rows=True))
    assert ten[0].row == "cifar10-matched" and not any("cifar100" in word for command in ten for word in command.flags)
    for dataset, extra in (("fashion_mnist", ()), ("mnist5k", ()), ("cifar10", ("--tree", "mine.json"))):
        once = reproduce.commands_of(Request("matched", dataset, (0, 1, 2), "cpu", extra, all_rows=True))
        assert {tuple(c.flags)[1] for c in once if c.script == reproduce.TRAIN_SCRIPT} == {dataset}
        assert not any("-derived" in command.row for command in once)  # the core rows have that tree, or the user's
    by_hand = reproduce.commands_of(dataclasses.replace(request, extra=("--lr", "0.7")))[0]
    assert flags.resolve_train(flags.train_parser().parse_args(list(by_hand.flags))).lr == 0.7


@pytest.mark.parametrize("extra", [(), ("--tree", "derived"), ("--tree=random",), ("--predict", "product")])
@pytest.mark.parametrize("dataset", ["fashion_mnist", "mnist5k", "cifar10", "cifar100"])
def test_matched_derives_no_tree_from_images_that_it_trained_on(dataset, extra):
    request = Request("matched", dataset, (0,), "cpu", extra, all_rows=True)
    for command in reproduce.commands_of(request):
        if command.script == reproduce.TRAIN_SCRIPT and "--folds" not in command.flags:
            config = flags.resolve_train(flags.train_parser().parse_args(list(command.flags)))
            assert config.train_held_out == (config.tree == "official" and config.predict == "last")


def test_the_rates_are_chosen_on_images_that_none_of_these_trainings_sees():
    request = Request("matched", "cifar100", (0, 1), "cpu", copy="q90", settings=True)
    *trainings, last = reproduce.commands_of(request)
    chosen = flags.resolve_analyze(flags.analyze_parser().parse_args(list(last.flags)))
    assert last.row == "cifar100-q90-matched-rates" and last.worker is None
    configs = [flags.resolve_train(flags.train_parser().parse_args(list(c.flags))) for c in trainings]
    assert [(c.lr, c.arm) for c in configs] == [(rate, arm) for rate in reproduce.RATES for arm in reproduce.CORE]
    record = json.loads((REPO_ROOT / "reproduction/results/hierarchy" / last.row / "seed0.json").read_text())
    best = {name: value["last"] for name, value in record["metrics"].items()}
    assert best == {"rate_flat": reproduce.FLAT_RATE, "rate_aware": reproduce.AWARE_RATE}
    for command, config in zip(trainings, configs, strict=True):
        assert config.held_out == 10000 and not config.train_held_out and config.bn
        assert command.folder.parent.parent == REPO_ROOT / chosen.rates and profile_of(command.row) == "custom"
    assert len({(config.epochs, config.seed, config.batch, config.preset) for config in configs}) == 1
    assert "FLAT_RATE" in reproduce.pages(request)


def test_which_deviations_the_flags_switch_on():
    config = flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar10"]))
    active = deviations.active(config)
    assert set(active) <= set(rows("hierarchy")) and "HCN-D05" in active and "HCN-D04" not in active
    for tree, derived in (("official", False), ("derived", True), ("random", True)):
        given = flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar10", "--tree", tree]))
        assert ("HCN-D06" in deviations.active(given)) == derived
    for switch in ("--amp bf16", "--amp tf32", "--channels-last", "--compile"):
        words = ["--dataset", "cifar10", *switch.split()]
        fast = deviations.active(flags.resolve_train(flags.train_parser().parse_args(words)))
        assert fast == sorted([*active, "HCN-D11"])


@pytest.mark.parametrize(
    ("words", "framed"),
    [
        ("--dataset fashion_mnist --image-size 28", False),
        ("--dataset folder:pictures --image-size 28", False),
        ("--dataset fashion_mnist --image-size 32", True),
        ("--dataset cifar10 --image-size 28", True),
    ],
)
def test_images_that_have_32_pixels_are_no_deviation(words, framed):
    config = flags.resolve_train(flags.train_parser().parse_args(words.split()))
    assert ("HCN-D07" not in deviations.active(config)) == framed


def test_claims_use_metrics_that_the_analysis_writes():
    table = tomllib.loads((REPO_ROOT / "reproduction" / "tables" / "hierarchy.toml").read_text())
    sources = "".join(
        (REPO_ROOT / "hierarchy_cnn_torch" / name).read_text()
        for name in (
            "report/measure.py",
            "report/layers.py",
            "report/label_study.py",
            "method/label_quality.py",
            "training/record.py",
        )
    )
    for claim in table["claim"]:
        for side in ("method", "baseline", "control"):
            metric = claim.get(side, {}).get("metric", "").replace(" - ", "/").split("/")
            for part in metric:
                known = part in ("", *flags.ARMS) or part in sources or part.removeprefix("quality_") in sources
                assert known or part.startswith(("quality_auroc_", "quality_confidence_auroc_")), metric
    assert all(t["evidence"] == "recalled" for t in table["table"])


def test_viewer_scripts_are_all_ours_and_short():
    for path in (REPO_ROOT / "hierarchy_cnn_torch").rglob("*"):
        if path.suffix in (".js", ".css", ".html"):  # of Python: tests/test_layout.py
            assert len(path.read_text().splitlines()) <= 400, path
        assert path.suffix != ".mjs" and ".min." not in path.name
