"""The commands behind `make reproduce-triplet`: rows, modes, ARGS; every line parses. And the digits as files."""

from __future__ import annotations

import dataclasses
import json
import shlex

import numpy as np
import pytest
from PIL import Image

import datasets
from datasets import lists
from reproduction.compare.tables import paper_of
from reproduction.launch.pipeline import Request, run
from reproduction.runtime.flags import as_dict
from reproduction.runtime.run_folder import REPO_ROOT, UserError
from triplet_tf import reproduce
from triplet_tf.config.base_config import parse, training_parser
from triplet_tf.data_sampling import digits, image_lists
from triplet_tf.training.run_files import ratio_history


def request(profile: str, dataset: str = "", extra: str = "", seeds: tuple[int, ...] = (0, 1, 2)) -> Request:
    chosen = dataset or reproduce.DATASETS[profile]
    return Request(profile, chosen, seeds, extra=tuple(shlex.split(extra)))


@pytest.mark.parametrize("profile", ["paper", "cpu", "smoke"])
def test_four_modes_a_seed_stage_1_first_and_every_line_parses(profile):
    commands = reproduce.commands_of(request(profile))
    assert len(commands) == 12 and len({c.folder for c in commands}) == 12 and len({c.worker for c in commands}) == 12
    configs = [as_dict(parse(training_parser(), list(c.flags))) for c in commands]
    assert [c["train_mode"] for c in configs[:4]] == ["vanilla", "cntr", "semi_hard", "hard"]
    assert [c["seed"] for c in configs[::4]] == [0, 1, 2]
    for command, config in zip(commands, configs, strict=True):
        assert config["row"] == command.row and config["name"] == f"seed{config['seed']}"
        assert str(command.folder).endswith(f"runs/triplet/{command.row}/seed{config['seed']}")
    same = [{k: v for k, v in c.items() if k not in ("train_mode", "row", "runs_dir", "seed", "name")} for c in configs]
    assert all(other == same[0] for other in same)  # compared, so equal in all else


def test_settings_of_the_profiles():
    paper = as_dict(parse(training_parser(), list(reproduce.commands_of(request("paper"))[3].flags)))
    settings = [paper[name] for name in ("db_name", "net", "train_iters", "frame_size", "init")]
    assert settings == ["aircrafts", "resnet50", 40000, 224, "imagenet"]
    small = as_dict(parse(training_parser(), list(reproduce.commands_of(request("cpu"))[3].flags)))
    expected = {"db_name": "csv:mnist5k", "net": "mobile", "frame_size": 64, "resize_sides": [68, 76], "bn_decay": 0.9,
                "flip": False, "init": "random", "batch_size": 32, "aug_style": "img"}  # fmt: skip
    assert {key: small[key] for key in expected} == expected


def test_matched_rows_differ_in_their_loss_alone():
    asked = dataclasses.replace(request("matched", seeds=(0, 1, 2, 3, 4)), copy="s144")
    commands = reproduce.commands_of(asked)
    configs = [parse(training_parser(), list(c.flags)) for c in commands]
    assert [c.row for c in commands[:4]] == [
        "dogs-s144-matched-vanilla",
        "dogs-s144-matched-semi_hard",
        "dogs-s144-matched",
        "dogs-s144-matched-healthy",
    ]
    assert len(commands) == 20 and len({c.folder for c in commands}) == 20 == len({c.worker for c in commands})
    assert all(c.grouped and c.accept_unverified and c.init == "imagenet" and c.db_name == "dogs" for c in configs)
    loss = ("train_mode", "margin", "first_third", "vanilla_batches", "row", "runs_dir", "seed", "name")
    same = [{k: v for k, v in as_dict(c).items() if k not in loss} for c in configs]
    assert all(other == same[0] for other in same)
    more = reproduce.commands_of(dataclasses.replace(asked, all_rows=True))
    assert len(more) == 3 * 7 + 2 * 4
    kinds = {c.row: parse(training_parser(), list(c.flags)) for c in more}
    assert not kinds["dogs-s144-matched-shuffled"].grouped and kinds["dogs-s144-matched-soft"].margin == "soft"


def test_tries_are_short_runs_of_one_seed_on_the_validation_list_in_the_order_of_the_page():
    asked = dataclasses.replace(request("matched", seeds=(3, 4)), copy="s144", settings=True)
    commands = reproduce.commands_of(asked)
    configs = [parse(training_parser(), list(c.flags)) for c in commands]
    variants = "try-first_third try-soft try-lambda try-euclidean rate-0.001 rate-0.003 rate-0.01".split()
    assert [c.row.removeprefix("dogs-s144-matched-") for c in commands] == variants
    for config in configs[4:]:
        kind = (config.train_mode, config.grouped, config.eval_split, config.train_iters, config.seed)
        assert kind == ("vanilla", True, "val", 500, 3)
    assert [config.learning_rate for config in configs[4:]] == [0.001, 0.003, 0.01]
    configs = configs[:4]
    for config in configs:
        kind = (config.train_mode, config.eval_split, config.train_iters, config.test_interval, config.seed)
        assert kind == ("hard", "val", 500, 50, 3)
    settings = [(c.first_third, c.learning_rate, c.margin, c.distance) for c in configs]
    assert settings == [
        ("semi_hard", 0.003, 0.2, "squared"),
        ("same", 0.001, "soft", "squared"),
        ("lambda", 0.003, 0.2, "squared"),
        ("same", 0.003, 0.2, "euclidean"),
    ]
    tests = [{"step": step, "test/embedding_ratio": ratio} for step, ratio in ((150, 1.0), (200, 1.3), (500, 1.25))]
    assert ratio_history(tests, 500)["lowest_ratio"] == [1.25]  # from step 200 on
    assert ratio_history([{"step": 500}], 500)["lowest_ratio"] == []  # of a run before the ratio was measured


def test_the_healthy_variant_is_the_first_try_whose_recorded_embedding_does_not_collapse():
    [health] = [rule for rule in paper_of("triplet").health if rule.over]  # of the embedding

    def lowest_ratio(name: str) -> float:
        record = REPO_ROOT / "reproduction/results/triplet" / f"dogs-s144-matched-{name}" / "seed0.json"
        return json.loads(record.read_text())["details"]["lowest_ratio"][0]

    first = next(flags for name, flags in reproduce.TRIES.items() if lowest_ratio(name) >= health.least)
    assert reproduce.MATCHED["healthy"] == ("--train_mode", "hard", *first)


def test_missing_files_of_matched_are_one_line_with_both_commands(tmp_path, capsys):
    def printed(*more: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            argv = ["--profile", "matched", "--copy", "s144", "--data-dir", str(tmp_path), "--device", "cpu", *more]
            run(reproduce.REPRODUCTION, argv)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    dogs, fetched = f"python -m datasets.dogs --root {tmp_path}", "python -m datasets.weights mobilenet_v1_1.0_224.tgz"
    both = printed()
    assert both.count("\n") == 1 and f"run {dogs} and {fetched} --root {tmp_path}, then" in both
    asked = dataclasses.replace(request("matched"), copy="s144", data_dir=str(tmp_path))
    commands = reproduce.commands_of(asked)
    random = reproduce.commands_of(dataclasses.replace(asked, extra=("--init", "random")))
    assert reproduce.missing(asked, random).count("python -m") == 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet_v1_1.0_224.tgz").touch()  # not unpacked yet
    assert fetched not in reproduce.missing(asked, commands) and dogs in reproduce.missing(asked, commands)
    (tmp_path / "dogs" / "Images").mkdir(parents=True)
    for name in ("train_list.mat", "test_list.mat"):
        (tmp_path / "dogs" / name).touch()
    assert reproduce.missing(asked, commands) == ""
    assert reproduce.missing(request("cpu"), reproduce.commands_of(request("cpu"))) == ""


def test_tries_are_of_the_matched_profile(capsys):
    with pytest.raises(SystemExit):
        argv = ["--profile", "cpu", "--rows", "settings", "--plan"]
        run(reproduce.REPRODUCTION, argv)
    assert "--rows: settings are chosen for the profile matched, not for cpu" in capsys.readouterr().err


def test_rows_are_those_of_the_table():
    known = {row.row for row in paper_of("triplet").row}
    made = {c.row for p in ("paper", "cpu") for c in reproduce.commands_of(request(p))}
    made |= {c.row for db in ("cars", "flowers", "dogs", "birds") for c in reproduce.commands_of(request("paper", db))}
    made |= {c.row for c in reproduce.commands_of(request("cpu", "cifar10"))}
    copy = dataclasses.replace(request("matched"), copy="s144", all_rows=True)
    made |= {c.row for c in reproduce.commands_of(copy)}
    made |= {c.row for c in reproduce.commands_of(dataclasses.replace(copy, settings=True))}
    assert made == known


def test_args_make_rows_of_their_own_and_stage_1_takes_what_concerns_it():
    commands = reproduce.commands_of(request("cpu", extra="--train_mode=hard --margin soft --net mobile", seeds=(4,)))
    assert [c.row for c in commands] == [
        "mnist5k-cpu-margin-soft-net-mobile-vanilla",
        "mnist5k-cpu-margin-soft-net-mobile",
    ]
    vanilla, hard = (as_dict(parse(training_parser(), list(c.flags))) for c in commands)
    assert (vanilla["margin"], hard["margin"], vanilla["net"]) == (0.2, "soft", "mobile")
    fixed = reproduce.commands_of(request("cpu", extra="--train_mode cntr --center_update=off", seeds=(0,)))
    assert [c.row for c in fixed] == ["mnist5k-cpu-center_update-off-vanilla", "mnist5k-cpu-center_update-off-cntr"]
    with pytest.raises(UserError, match="--train_mode easy: choose vanilla"):
        reproduce.commands_of(request("cpu", extra="--train_mode easy"))


@pytest.mark.parametrize("word", ["--train_mode cntr", "--train_mode=hard", "--train_mode vanilla"])
@pytest.mark.parametrize("settings", [False, True])
def test_profile_matched_fixes_the_modes(word, settings):
    with pytest.raises(UserError, match="ARGS: --train_mode: profile matched fixes the modes; use PROFILE=cpu or pape"):
        reproduce.commands_of(dataclasses.replace(request("matched", extra=word), settings=settings))


@pytest.mark.parametrize("k", ["--Triplet_K 2", "--Triplet_K=2"])
def test_grouped_softmax_has_as_many_images_of_a_class_as_the_other_modes(k):
    def configs(profile: str, extra: str) -> list:
        commands = reproduce.commands_of(request(profile, extra=f"{k} {extra}", seeds=(0,)))
        return [parse(training_parser(), list(c.flags)) for c in commands]

    for profile, extra in (("matched", ""), ("cpu", "--vanilla_batches grouped"), ("cpu", "--vanilla-batches=grouped")):
        assert {(c.grouped, c.Triplet_K) for c in configs(profile, extra)} == {(True, 2)}
    assert [c.Triplet_K for c in configs("cpu", "")] == [4, 2, 2, 2]  # shuffled batches know no K


@pytest.mark.parametrize("flags", ["--margin soft", "--distance euclidean", "--first_third lambda"])
def test_flags_that_a_command_refuses_stop_all_of_them_before_the_first(flags):
    with pytest.raises(UserError, match=rf"{flags.split()[0]} .*with --train_mode hard.*; add --train_mode hard$"):
        reproduce.commands_of(request("cpu", extra=flags))
    assert len(reproduce.commands_of(request("cpu", extra=f"{flags} --train_mode hard", seeds=(0,)))) == 2
    with pytest.raises(UserError) as error:
        reproduce.commands_of(request("matched", extra=flags))
    assert "add --train_mode" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch_size 30", "which --train_mode cntr needs"),
        ("--batch_size 30 --train_mode vanilla --vanilla_batches grouped", "which --vanilla_batches grouped needs"),
        ("--Triplet_K 1", "--train_mode semi_hard needs at least 2"),
    ],
)
def test_batches_that_groups_do_not_fill_are_refused(flags, words):
    with pytest.raises(UserError, match=rf"{words} \(STL-D26\)$"):
        reproduce.commands_of(request("cpu", extra=flags))


def test_the_plan_names_the_download_of_the_papers_own_set_alone(capsys):
    for dataset, words in (("aircrafts", "2.9 GB"), ("birds", "size of the download not known")):
        run(reproduce.REPRODUCTION, ["--profile", "paper", "--dataset", dataset, "--plan"])
        assert words in capsys.readouterr().out


def test_data_sets():
    for name in ("aircrafts", "birds", "mnist5k", "csv:mine", "folder:photos"):
        assert reproduce.checked(name) == name
    with pytest.raises(ValueError, match="'cub' is not one of flowers"):
        reproduce.checked("cub")
    (command,) = reproduce.commands_of(request("cpu", "csv:mine", extra="--train_mode vanilla", seeds=(0,)))
    assert as_dict(parse(training_parser(), list(command.flags)))["db_name"] == "csv:mine"


@pytest.fixture
def asked():
    """The arguments of each call of datasets.load."""
    return []


@pytest.fixture
def small(monkeypatch, asked):
    """mnist5k cut to 40 + 10 images."""
    whole = datasets.load("mnist5k")
    part = datasets.Dataset(
        "mnist5k",
        whole.train_images[:40],
        whole.train_labels[:40],
        whole.test_images[:10],
        whole.test_labels[:10],
        whole.class_names,
        digests=whole.digests,
    )
    monkeypatch.setattr(datasets, "load", lambda *words, **_: asked.append(words) or part)
    return part


def test_digits_are_written_once_without_loss_and_checked(small, tmp_path):
    found = digits.load("mnist5k", tmp_path)
    assert found.verified and found.class_names == tuple("0123456789") and len(found.test.names) == 10
    assert found.digests["mnist_5k.csv.gz"] == small.digests["mnist_5k.csv.gz"]
    for rows, images, labels in (
        (found.train, small.train_images, small.train_labels),
        (found.test, small.test_images, small.test_labels),
    ):
        np.testing.assert_array_equal(rows.labels, labels)
        for name, image in zip(rows.names, images, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(found.images / name)), image[..., 0])
    val = digits.load("mnist5k", tmp_path, "train", "val")
    assert len(val.train.names) == 32 and not set(val.train.names) & set(val.test.names)
    (found.images / found.train.names[3]).write_bytes(b"other")
    with pytest.raises(datasets.DatasetError, match="images or lists are not as they were written; delete the folder"):
        digits.load("mnist5k", tmp_path)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_copy_of_a_set_is_accepted_if_the_flag_says_so(small, asked, tmp_path, accepted):
    words = ["--db_name", "csv:mnist5k", "--data-dir", str(tmp_path), *["--accept-unverified"] * accepted]
    image_lists.open_lists(parse(training_parser(), words))
    assert asked[-1] == ("mnist5k", tmp_path, accepted)


def test_half_written_digits_are_written_again(small, tmp_path):
    home = digits.home("mnist5k", tmp_path)
    (home / "images").mkdir(parents=True)
    (home / "images" / "train_99999.png").touch()  # killed before the rest came
    assert len(digits.load("mnist5k", tmp_path).train.names) == 40
    assert len(list((home / "images").iterdir())) == 50 and set(lists.FILES.values()) == {
        path.name for path in (home / "lists").glob("*.csv")
    }


@pytest.mark.parametrize(
    ("given", "taken"), [("aircraft", "aircrafts"), ("flowers102", "flowers"), ("nabirds", "birds")]
)
def test_a_set_may_be_called_what_make_data_calls_it(given, taken):
    assert reproduce.checked(given) == taken == reproduce.checked(taken)
