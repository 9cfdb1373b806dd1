"""The authors' flags of notebook.py and notebook_yt8m.py, and how the three seed lines resolve."""

import dataclasses
import json
import shlex

import pytest

from subclass_torch import flags, ranking
from subclass_torch.yt8m import flags as yt8m_flags

# name, type, default as released (None: store_true), a value to try
GOLDEN = [
    ("dataset", "cifar10", "svhn"),
    ("model", "vgg16", "wideresnet"),
    ("batch_size", 128, "64"),
    ("epochs_class", 10, "3"),
    ("epochs", 300, "7"),
    ("learning_rate", 0.1, "0.05"),
    ("subclass_label_weight", 0.9, "0.5"),
    ("numClasses2Repartition", 2, "3"),
    ("numSubclassesPerClass", 2, "4"),
    ("n_holes", 1, "2"),
    ("length", 16, "8"),
    ("seed", 0, "5"),
]
SWITCHES = {"data_augmentation": True, "cutout": False, "subclass": False, "no-cuda": False}

SEED_LINES = {
    "cifar10": "--dataset cifar10  --model vgg16 --data_augmentation --cutout --length 16 "
    "--subclass --numClasses2Repartition 2",
    "cifar100": "--dataset cifar100 --model vgg16 --data_augmentation --cutout --length 8  "
    "--subclass --numClasses2Repartition 10",
    "svhn": "--dataset svhn     --model vgg16 --cutout --length 20 --subclass --numClasses2Repartition 2",
}


def config_of(capsys, *argv, module=flags):
    with pytest.raises(SystemExit) as ended:
        module.parse([*argv, "--print-config"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv, module=flags):
    with pytest.raises(SystemExit) as ended:
        module.parse(list(argv))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) == 1
    return message


def test_more_neglected_classes_than_there_are_are_refused_for_both_networks(capsys):
    for words in (["--subclass"], ["--neglected", "file.json"]):
        message = refused(capsys, *words, "--numClasses2Repartition", "11")
        assert "--numClasses2Repartition 11: cifar10 has 10 classes" in message
    assert config_of(capsys, "--numClasses2Repartition", "11")["num_subclasses"] == 10  # there it means nothing


def test_defaults_after_resolution(capsys):
    config = config_of(capsys)
    for name, default, _ in GOLDEN:
        assert config[name] == default, name
    for name, default in SWITCHES.items():
        assert config[name.replace("-", "_")] is default


@pytest.mark.parametrize(("name", "default", "value"), GOLDEN)
@pytest.mark.parametrize("form", ["--{}={}", "--{} {}"])
def test_values_in_both_spellings(capsys, name, default, value, form):
    config = config_of(capsys, *form.format(name, value).split(" "))
    assert config[name] == (value if isinstance(default, str) else type(default)(value))


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(capsys, name):
    assert config_of(capsys, f"--{name}")[name.replace("-", "_")] is True


@pytest.mark.parametrize(
    ("dataset", "rate", "augmented", "subclasses", "milestones", "gamma"),
    [
        ("cifar10", 0.1, True, 12, [60, 120, 160, 220, 260], 0.2),
        ("cifar100", 0.1, True, 110, [60, 120, 160, 220, 260], 0.2),
        ("svhn", 0.01, False, 12, [80, 120, 160, 220], 0.1),
    ],
)
def test_seed_lines(capsys, dataset, rate, augmented, subclasses, milestones, gamma):
    config = config_of(capsys, *SEED_LINES[dataset].split())
    assert (config["learning_rate"], config["data_augmentation"]) == (rate, augmented)
    assert (config["num_subclasses"], config["milestones"], config["gamma"]) == (subclasses, milestones, gamma)
    assert config["subclass"] and config["cutout"] and config["epochs"] == 300 and config["epochs_class"] == 10
    official = config_of(capsys, *SEED_LINES[dataset].split(), "--compat", "official")
    assert (official["learning_rate"], official["data_augmentation"]) == (0.1, True)
    assert (
        config_of(capsys, *SEED_LINES[dataset].replace("vgg16", "wideresnet").split())["num_subclasses"] == subclasses
    )


def test_official_sets_every_switch_and_one_flag_goes_back(capsys):
    official = config_of(capsys, "--compat", "official")
    assert {name: official[name] for name in flags.SWITCHES} == {
        name: value for name, (_, value) in flags.SWITCHES.items()
    }
    assert official["subclass"] is True and official["num_subclasses"] == 12
    mixed = config_of(
        capsys, "--compat", "official", "--mixing", "wide", "--no-data_augmentation", "--learning_rate", "0.3"
    )
    assert (mixed["mixing"], mixed["data_augmentation"], mixed["learning_rate"]) == ("wide", False, 0.3)
    assert mixed["neglect_total"] == "compound"


def test_baseline(capsys):
    config = config_of(capsys, "--baseline_loss", "softmax")
    assert config["baseline_loss"] == "softmax" and config["num_subclasses"] == 10
    assert config["name"] == "cifar10_vgg16_baseline"


def test_additions(capsys):
    config = config_of(
        capsys, "--data_root", "elsewhere", "--subclass", "--stage", "identify", "--workers", "3", "--no-cuda"
    )
    assert config["data_dir"] == "elsewhere" and config["device"] == "cpu" and config["stage"] == "identify"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--dataset imagenet22k", "argument --dataset: unknown data set 'imagenet22k'"),
        ("--model resnet", "argument --model: invalid choice: 'resnet'"),
        ("--batch_size 0", "argument --batch_size: '0' is not a whole number >= 1"),
        ("--learning_rate 0", "argument --learning_rate: '0' is not a number > 0"),
        ("--subclass_label_weight 1.5", "argument --subclass_label_weight: '1.5' is not a number"),
        ("--subclass --numClasses2Repartition 11", "--numClasses2Repartition 11: cifar10 has 10 classes"),
        ("--milestones 5,3", "'5,3' is not a list of ascending epochs"),
        ("--stage identify", "needs --subclass"),
        ("--subclass --neglected x.json", "--neglected: only with --stage train"),
        ("--subclass --repartition random", "--repartition random: needs --neglected FILE"),
        ("--data_aug", "unrecognized arguments"),
    ],
)
def test_bad_values(capsys, line, said):
    assert said in refused(capsys, *line.split())


@pytest.mark.parametrize("place", ["--stage train", "--stage=train", ""])
@pytest.mark.parametrize(("script", "module"), [("notebook.py", flags), ("notebook_yt8m.py", yt8m_flags)])
def test_the_command_for_stage_1_keeps_all_other_flags(script, module, place):
    argv = [*place.split(), "--subclass"] if module is flags else ["--num_classes=9", "--num_subclasses", "10"]
    argv += [*place.split(), "--name", "a b", "--overwrite", *place.split(), "--batch_size", "7"]
    words = shlex.split(flags.identify_command(script, argv))
    assert words[:2] == ["python", f"subclass_torch/{script}"] and words.count("--stage") == 1
    expected = dataclasses.replace(module.parse(argv), stage="identify", overwrite=False, argv=words[2:])
    assert module.parse(words[2:]) == expected


@pytest.mark.parametrize("module", [flags, yt8m_flags, ranking])
def test_every_flag_has_a_help_text(module):
    assert all(action.help for action in module.make_parser()._actions)


YT8M = {
    "train_data_pattern_glob": "data/yt8m/video/train_subclass/train*.tfrecord",
    "subclass_labelling_data_save_fname": "data/yt8m/video/train_subclass/subclassLabellingData.npz",
    "eval_data_pattern_glob": "data/yt8m/video/validate/validate*.tfrecord",
    "feature_names": "mean_rgb",
    "shuffle_data": True,
    "num_parallel_calls": 4,
    "shuffle_buffer_size": 10000,
    "num_subclasses": 3962,
    "num_classes": 3862,
    "num_train_observations": 3888919,
    "top_k": 20,
    "dr_method": "subclassVgg16",
    "perform_training": True,
    "optimizer": "AdamOptimizer",
    "batch_size": 1024,
    "regularization_penalty": 1e-3,
    "base_learning_rate": 0.001,
    "learning_rate_decay": 0.95,
    "learning_rate_decay_examples": 4000000,
    "num_epochs": 1,
    "max_steps": 90000000000,
}


def test_yt8m_defaults(capsys):
    config = config_of(capsys, module=yt8m_flags)
    assert {name: config[name] for name in YT8M} == YT8M
    assert config["num_neglected"] == 100 and config["ignored"] == []
    assert (config["l2"], config["dropout"], config["label_loss"]) == ("declared", "active", "subclass")


@pytest.mark.parametrize("name", YT8M)
def test_yt8m_values(capsys, name):
    default = YT8M[name]
    value = {"num_subclasses": "3900", "num_classes": "3800"}.get(name)
    if value is None:
        value = (
            "other"
            if isinstance(default, str)
            else "False"
            if isinstance(default, bool)
            else "0.5"
            if isinstance(default, float)
            else "9"
        )
    got = config_of(capsys, f"--{name}={value}", module=yt8m_flags)[name]
    assert got == (value if isinstance(default, str) else False if isinstance(default, bool) else type(default)(value))


def test_yt8m_booleans_official_and_unused(capsys):
    assert config_of(capsys, "--noshuffle_data", module=yt8m_flags)["shuffle_data"] is False
    assert config_of(capsys, "--shuffle_data", module=yt8m_flags)["shuffle_data"] is True
    config = config_of(
        capsys,
        "--compat",
        "official",
        "--optimizer=Sgd",
        "--noperform_training",
        "--num_train_observations=5",
        module=yt8m_flags,
    )
    assert (config["l2"], config["dropout"], config["label_loss"]) == ("none", "inactive", "plain")
    assert config["ignored"] == ["perform_training", "optimizer", "num_train_observations"]
    assert "fewer than --num_classes" in refused(capsys, "--num_subclasses", "10", module=yt8m_flags)
    assert "'maybe' is not True or False" in refused(capsys, "--shuffle_data=maybe", module=yt8m_flags)
