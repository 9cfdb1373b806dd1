"""What `make reproduce-finegrained` runs: the commands parse, name their rows, and cover the profiles."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finegrained_torch import flags, reproduce
from finegrained_torch import flags as tables
from reproduction.compare.tables import paper_of
from reproduction.launch.pipeline import Request

ROOT = Path(__file__).resolve().parent.parent.parent


def request(profile, dataset, seeds=(42,), extra=(), force=False, **more):
    return Request(profile, dataset, seeds, "cpu", extra, force, None, **more)


def resolved(command, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse_pipeline([*command.flags, "--print-config"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def made(config):
    """Rows that a command finishes."""
    found = set()
    for stage in config["stage"]:
        options = {"use_pseudo": config["use_pseudo"], "sub_labels": config["sub_labels"]}
        if stage == "fine-tune":
            found |= {tables.variant(stage, head=head, **options) for head in config["head"]}
        elif stage == "multi-head":
            found |= {tables.variant(stage, alpha=alpha, **options) for alpha in config["alpha"]}
        elif stage == "coarse":
            found.add(tables.variant(stage, control=config["control"]))
    return found


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "pathmnist"])
def test_paper_profile_is_the_whole_table(dataset, capsys):
    configs = [resolved(command, capsys) for command in reproduce.commands_of(request("paper", dataset))]
    rows = set().union(*map(made, configs))
    expected = set(tables.TITLES) - {"ft-pixels", "mh09-random"}  # scored as a clustering only; profile matched only
    if dataset == "pathmnist":
        expected = {name for name in expected if "true" not in name}
    assert rows == expected
    assert configs[0]["controls"] == list(tables.SUB_LABELS[1:])
    released = {
        "threshold": 90, "n_aug": 5, "batch_size": 200, "max_epochs": 50, "min_epochs": 30, "optimizer": "sgd",
        "freeze": False, "network": "resnet18", "pretrained": True, "lr": None, "aug_set": "flips",
        "min_cluster_size": 100, "umap_neighbors": 30, "umap_min_dist": 0.0, "umap_components": 4,
        "schedule": "restarts",
    }  # fmt: skip
    released["patience"] = 5 if dataset == "pathmnist" else 4
    for config in configs:
        assert {name: config[name] for name in released} == released and config["seed"] == 42


def test_cpu_profile_is_what_was_measured(capsys):
    commands = reproduce.commands_of(request("cpu", "mnist5k", (42, 43, 44)))
    configs = [resolved(command, capsys) for command in commands]
    variants = {"", *"ft ft-deep ft-keep mh09 ft-true base-budget base-certain ft-random".split()}
    assert set().union(*map(made, configs)) == variants
    for config in configs:
        assert (config["network"], config["schedule"], config["lr"], config["batch_size"]) == (
            "small",
            "cosine",
            0.05,
            100,
        )
        assert (config["max_epochs"], config["min_cluster_size"], config["aug_set"]) == (6, 40, "shifts")
    assert len({config["out_dir"] for config in configs}) == 3
    assert configs[-1]["stage"] == ["report"] and configs[-1]["out_dir"].endswith("mnist5k-cpu/seed42")
    assert sum(command.cpu_minutes for command in commands) < 15
    known = {row.row for row in paper_of("finegrained").row}
    assert {command.row for command in commands} <= known


def test_matched_core_rows_have_equal_epochs_images_and_rate(capsys):
    commands = reproduce.commands_of(request("matched", "cifar100", (0, 1, 2, 3, 4), copy="q90"))
    configs = [resolved(command, capsys) for command in commands]
    assert set().union(*map(made, configs)) == {"", "base-budget", "ft", "ft-random", "ft-true"}
    variants = ("", "-base-budget", "-ft", "-ft-random", "-ft-true", "-stability")
    assert {command.row for command in commands} == {f"cifar100-q90-matched{variant}" for variant in variants}
    assert configs[-1]["stage"] == ["stability", "report"] and configs[-1]["out_dir"].endswith("matched/seed0")
    keys = ("network", "batch_size", "max_epochs", "min_epochs", "lr", "schedule", "augment", "precision", "optimizer")
    assert len({tuple(config[key] for key in keys) for config in configs[:-1]}) == 1
    for config in configs:
        assert config["accept_unverified"] and (config["use_pseudo"] or config["true_images"] == "certain")
    assert sorted({config["seed"] for config in configs}) == [0, 1, 2, 3, 4]
    folders = ["--no-use_pseudo" in c.flags for c in reproduce.commands_of(request("matched", "pathmnist"))]
    assert len(folders) == 5 and not any(folders)


def test_matched_further_rows_come_for_three_seeds_and_on_cifar10(capsys):
    core = reproduce.commands_of(request("matched", "cifar100", (0, 1, 2, 3, 4), copy="q90"))
    commands = reproduce.commands_of(request("matched", "cifar100", (0, 1, 2, 3, 4), copy="q90", all_rows=True))
    configs = [resolved(command, capsys) for command in commands]
    per_seed = {seed: set() for seed in range(5)}
    for config in configs:
        if config["dataset"] == "cifar100":
            per_seed[config["seed"]] |= made(config)
    further = {"mh09", "mh09-true", "mh09-random", "base-certain", "ft-kmeans", "ft-deep"}
    assert [per_seed[seed] & further for seed in range(5)] == [further] * 3 + [set()] * 2
    for config in configs:
        one_cycle = config["stage"] == ["multi-head"] or config["control"] == "certain"
        epochs = reproduce.cycle(config["dataset"]) * (1 + one_cycle)
        assert config["max_epochs"] == epochs or config["stage"] == ["stability", "report"]
    order = list(dict.fromkeys(command.row for command in commands if "coarse" not in command.flags))
    own, cifar10 = "cifar100-q90-matched", "cifar10-matched"
    first, multi_head = ("-ft", "-ft-random", "-ft-true", "-stability"), ("-mh09", "-mh09-true", "-mh09-random")
    assert order == [
        *(f"{own}{variant}" for variant in first + multi_head),  # the core rows of all seeds first: stability waits
        *(f"{cifar10}{variant}" for variant in first),
        *(f"{own}{variant}" for variant in ("-ft-kmeans", "-ft-deep")),
    ]
    assert commands[: len(core)] == core
    assert commands[-1] == commands[len(core) - 1]  # the report again, of all rows
    assert len([c for c in configs if c["dataset"] == "cifar10"]) == 3 * 5 + 1
    assert {c.row for c in commands if "cifar10" in c.flags} >= {"cifar10-matched", "cifar10-matched-ft-true"}
    # what the page says, on a CPU with bfloat16
    assert len(core) == 5 * 5 + 1 and 3 * 60 < sum(command.cpu_minutes for command in core) < 3.5 * 60


def test_pathmnist_joins_the_further_rows_where_its_file_is_placed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # the medmnist package's folder
    asked = dataclasses.replace(request("matched", "cifar100", (0, 1, 2, 3), all_rows=True), data_dir=str(tmp_path))

    def rows():
        return {command.row for command in reproduce.commands_of(asked) if command.row.startswith("pathmnist")}

    assert rows() == set()
    (tmp_path / "pathmnist").mkdir()
    (tmp_path / "pathmnist" / "pathmnist.npz").write_bytes(b"")
    variants = (
        "",
        "-base-budget",
        "-ft",
        "-ft-random",
        "-stability",
        "-mh09",
        "-mh09-random",
        "-base-certain",
        "-ft-kmeans",
        "-ft-deep",
    )
    assert rows() == {f"pathmnist-matched{variant}" for variant in variants}  # FGL-C6 needs the deep head


def test_stages_stand_before_what_needs_them(capsys):
    for profile, dataset in (("cpu", "mnist5k"), ("paper", "cifar10"), ("smoke", "mnist5k"), ("matched", "cifar100")):
        done: set[str] = set()
        for command in reproduce.commands_of(request(profile, dataset)):
            config = resolved(command, capsys)
            kind = config["sub_labels"] if config["use_pseudo"] else "true"
            for stage in config["stage"]:
                needs = {
                    "features": {"coarse"},
                    "uncertainty": {"coarse"},
                    "cluster": {"features", "uncertainty"},
                    "fine-tune": {f"sub {kind}"},
                    "report": {"coarse"},
                    "stability": {"cluster"},
                }.get(stage, set())
                if stage in ("sub", "multi-head") and config["use_pseudo"]:
                    needs = {"cluster"} | (set() if kind == "found" else {f"labels {kind}"})
                if config["true_images"] == "certain":
                    needs = needs | {"uncertainty"}
                if config["control"] != "none":
                    needs = {"coarse", "uncertainty"}
                assert needs <= done, (profile, stage, needs - done)
                done |= {stage, f"sub {kind}"} if stage == "sub" else {stage}
                if stage == "cluster":
                    done |= {f"labels {name}" for name in config["controls"]}


def test_cifar_on_the_cpu_is_a_fixed_subset_and_a_folder_has_no_true_row(capsys):
    configs = [resolved(command, capsys) for command in reproduce.commands_of(request("cpu", "cifar10"))]
    assert all(config["limit_train"] == 10000 and config["aug_set"] == "flips" for config in configs)
    (tmp,) = {command.script for command in reproduce.commands_of(request("cpu", "folder:pictures"))}
    assert tmp == "finegrained_torch/pipeline.py"
    assert not any("--no-use_pseudo" in c.flags for c in reproduce.commands_of(request("cpu", "folder:pictures")))


def test_args_make_a_row_of_their_own_and_force_starts_anew():
    first, *rest = reproduce.commands_of(request("cpu", "mnist5k", extra=("--threshold", "80"), force=True))
    assert first.row == "mnist5k-cpu-threshold-80" and rest[0].row == "mnist5k-cpu-threshold-80-ft"
    assert all("--overwrite" in command.flags and "80" in command.flags for command in (first, *rest))
    assert first.folder.name == "seed42" and first.folder.parent.name == "mnist5k-cpu-threshold-80"


def test_seeds_are_workers_and_the_report_waits_for_all():
    commands = reproduce.commands_of(request("cpu", "mnist5k", (42, 43)))
    assert [command.worker for command in commands] == ["seed42"] * 7 + ["seed43"] * 7 + [None]
    opens = reproduce.report_of(request("cpu", "mnist5k", (42, 43)))
    assert opens.startswith("open in a browser: ") and opens.endswith("mnist5k-cpu/seed42/report.html")


def test_no_flag_is_given_twice():
    requests = [request(profile, dataset) for profile, dataset in reproduce.DATASETS.items()]
    for asked in (
        *requests,
        request("matched", "cifar100", all_rows=True),
        request("matched", "cifar100", settings=True),
    ):
        for command in reproduce.commands_of(asked):
            names = [word for word in command.flags if word.startswith("--")]
            assert sorted(names) == sorted(set(names)), command.stage


def test_plan_lists_every_command():
    argv = [sys.executable, "-m", "finegrained_torch.reproduce", "--profile", "cpu", "--seeds", "", "--args=", "--plan"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if "finegrained_torch/pipeline.py" in line]
    assert done.returncode == 0 and len(lines) == 3 * 7 + 1
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--seed") + 1] in ("42", "43", "44")
        assert words[words.index("--row") + 1] == "mnist5k-cpu"
