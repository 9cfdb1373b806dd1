"""The authors' flags of main.py, the parameters of Pipeline as flags of pipeline.py, and what they become."""

import inspect
import json

import pytest

from finegrained_torch import flags, pipeline

# parameter of the released class, default, a value to try
GOLDEN = [
    ("dataset", "cifar10", "cifar100"),
    ("threshold", 90, "80"),
    ("n_aug", 5, "3"),
    ("batch_size", 200, "128"),
    ("max_epochs", 50, "60"),
    ("min_epochs", 30, "10"),
    ("patience", 4, "5"),
]


def config_of(capsys, *argv, parse=flags.parse_pipeline):
    with pytest.raises(SystemExit) as ended:
        parse([*argv, "--print-config"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv, parse=flags.parse_pipeline):
    with pytest.raises(SystemExit) as ended:
        parse(list(argv))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) == 1
    return message


def test_defaults_replay_the_release(capsys):
    config = config_of(capsys)
    for name, default, _ in GOLDEN:
        assert config[name] == default, name
    assert config["strategy"] == "all" and config["alpha"] == [0.1, 0.9]
    assert config["pretrained"] is True and config["use_pseudo"] is True
    assert config["stage"] == [stage for stage in flags.STAGES if stage != "stability"]
    assert config["head"] == ["plain"] and config["seed"] == 42
    assert (config["umap_neighbors"], config["umap_min_dist"], config["umap_components"]) == (30, 0, 4)
    assert config["min_cluster_size"] == 100 and config["split"] == "fixed" and config["aug_set"] == "flips"
    assert config["lr"] is None and config["optimizer"] == "sgd" and config["schedule"] == "restarts"
    assert config["network"] == "resnet18" and config["precision"] == "32-true" and config["freeze"] is False


@pytest.mark.parametrize(("name", "default", "value"), GOLDEN)
@pytest.mark.parametrize("form", ["--{}={}", "--{} {}"])
def test_values_in_both_spellings(capsys, name, default, value, form):
    config = config_of(capsys, *form.format(name, value).split(" "))
    assert config[name] == (value if isinstance(default, str) else type(default)(value))


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("--no-pretrained", "pretrained", False),
        ("--pretrained", "pretrained", True),
        ("--no_use_pseudo", "use_pseudo", False),
        ("--alpha 0.5", "alpha", [0.5]),
        ("--alpha 0.1 0.2 1", "alpha", [0.1, 0.2, 1]),
        ("--head deep_layer plain", "head", ["deep_layer", "plain"]),
        ("--sublabels random", "sub_labels", "random"),
        ("--sub-labels kmeans", "sub_labels", "kmeans"),
        ("--data-root x", "data_dir", None),
        ("--network small", "pretrained", False),
        ("--max_epochs 6", "min_epochs", 6),
        ("--stage sub coarse", "stage", ["coarse", "sub"]),
        ("--controls random kmeans", "controls", ["random", "kmeans"]),
        ("--controls noumap kmeans random kmeans", "controls", ["random", "kmeans", "noumap"]),
        ("--stage sub --strategy all", "stage", ["sub"]),
        ("--precision bf16-mixed", "precision", "bf16-mixed"),
        ("--precision auto", "precision", "auto"),
        ("--network resnet10", "pretrained", False),
        ("--network resnet10n", "pretrained", False),
        ("--augment shifts", "augment", "shifts"),
        ("--no-use_pseudo --true-images certain", "true_images", "certain"),
        ("--schedule onecycle --lr 0.1 --max_epochs 60", "min_epochs", 60),
        ("--compile", "compile", True),
        ("--lr 0.05", "lr", 0.05),
    ],
)
def test_additions(capsys, argv, name, value):
    if value is None:
        assert "unrecognized arguments" in refused(capsys, *argv.split())
    else:
        assert config_of(capsys, *argv.split())[name] == value


def test_strategies_choose_the_stages_of_step_two(capsys):
    first = ["coarse", "features", "uncertainty", "cluster"]
    for argv, stages in (
        ("--strategy fine-tuning", [*first, "sub", "fine-tune", "report"]),
        ("--strategy multi-head", [*first, "multi-head", "report"]),
        ("--no-use_pseudo", ["sub", "fine-tune", "multi-head", "report"]),
    ):
        assert config_of(capsys, *argv.split())["stage"] == stages


@pytest.mark.parametrize("strategy", flags.STRATEGIES)
@pytest.mark.parametrize("named", flags.STAGES)
def test_a_stage_that_is_named_next_to_all_runs_too(capsys, strategy, named):
    for more in ([], ["--no-use_pseudo"]):
        whole = config_of(capsys, "--strategy", strategy, *more)["stage"]
        found = config_of(capsys, "--strategy", strategy, *more, "--stage", "all", named)["stage"]
        assert set(found) == {*whole, named} and found == sorted(found, key=flags.STAGES.index)


def test_folders(capsys, tmp_path):
    assert config_of(capsys)["out_dir"].endswith("runs/finegrained/cifar10")
    config = config_of(capsys, "--dataset", "folder:/some/my pictures", "--runs-dir", str(tmp_path))
    assert config["out_dir"] == f"{tmp_path}/my_pictures"
    assert config_of(capsys, "--out_dir", "here")["out_dir"] == "here"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--dataset imagenet22k", "argument --dataset: unknown data set 'imagenet22k'"),
        ("--threshold 0", "argument --threshold: '0' is not a number > 0"),
        ("--threshold 101", "argument --threshold: '101' is not a number > 0 and <= 100"),
        ("--alpha 1.5", "argument --alpha: '1.5' is not a number >= 0 and <= 1"),
        ("--alpha 0.1 0.1", "--alpha 0.1 0.1: names one value twice"),
        ("--n_aug 0", "argument --n_aug: '0' is not a whole number >= 1"),
        ("--strategy base", "argument --strategy: invalid choice: 'base'"),
        ("--stage sub --strategy multi-head", "--strategy multi-head: only with --stage all"),
        ("--stage everything", "argument --stage: invalid choice: 'everything'"),
        ("--head round", "argument --head: invalid choice: 'round'"),
        ("--min_epochs 60", "--min_epochs 60: more than --max_epochs 50"),
        ("--network small --pretrained", "no ImageNet weights for --network small"),
        ("--network resnet10 --pretrained", "no ImageNet weights for --network resnet10"),
        ("--no-pretrained --weights x.pth", "--weights: only with --pretrained"),
        ("--no-use_pseudo --sub_labels random", "--sub_labels random: only with pseudo-labels"),
        ("--control budget", "--control budget: only with --stage coarse"),
        ("--devices 2 --compile", "--compile: only with one of --devices"),
        ("--device gpu", "argument --device: 'gpu' is not auto"),
        ("--schedule onecycle", "--schedule onecycle: needs --lr, its peak"),
        ("--schedule onecycle --lr 0.1 --min_epochs 4", "--schedule onecycle: ends with --max_epochs; leave out"),
        ("--true-images certain", "--true_images certain: only with --no-use_pseudo"),
        ("--lr 0", "argument --lr: '0' is not a number > 0"),
        ("--thresh 80", "unrecognized arguments: --thresh"),
    ],
)
def test_bad_values(capsys, line, said):
    assert said in refused(capsys, *line.split())


def test_freeze_is_a_setting_of_the_stages_that_it_changes():
    for control, stages in (("none", ["fine-tune"]), ("certain", ["fine-tune"]), ("budget", ["coarse", "fine-tune"])):
        words = ["--control", control, *(["--stage", "coarse"] if control != "none" else [])]
        plain, frozen = (flags.parse_pipeline([*words, *["--freeze"] * count]) for count in (0, 1))
        assert "freeze" not in flags.of_stage(plain, "coarse")  # as in folders of older runs
        differing = [name for name in flags.STAGE_FLAGS if flags.of_stage(plain, name) != flags.of_stage(frozen, name)]
        assert differing == stages


@pytest.mark.parametrize("parser", [flags.pipeline_parser, flags.main_parser])
def test_help_names_every_default_among_several_words(parser):
    actions = [action for action in parser()._actions if action.choices and isinstance(action.default, str)]
    shown = [action for action in actions if action.help != "==SUPPRESS=="]
    assert len(shown) >= 9 and all(f"(default {action.default}" in action.help for action in shown)
    assert "--no-pretrained" in parser().format_help()


# --- main.py --------------------------------------------------------------------------------------------------------


def test_main_defaults(capsys):
    config = config_of(capsys, parse=flags.parse_main)
    assert (config["dataset"], config["strategy"], config["stage"]) == ("cifar10", "base", ["coarse"])
    assert config["use_pseudo"] is False and config["legacy_net"] is False and config["seed"] == 42


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cifar100", "pathmnist"])
@pytest.mark.parametrize("strategy", ["base", "multihead", "transfer"])
def test_main_choices(capsys, dataset, strategy):
    config = config_of(capsys, "--dataset", dataset, f"--strategy={strategy}", parse=flags.parse_main)
    expected = {"base": ["coarse"], "multihead": ["multi-head"], "transfer": ["sub", "fine-tune"]}[strategy]
    assert config["dataset"] == dataset and config["stage"] == expected


def test_main_with_pseudo_labels_and_with_the_older_network(capsys):
    config = config_of(capsys, "--strategy", "transfer", "--use_pseudo", parse=flags.parse_main)
    assert config["stage"] == ["coarse", "features", "uncertainty", "cluster", "sub", "fine-tune"]
    config = config_of(capsys, "--legacy_net", parse=flags.parse_main)
    assert (config["network"], config["optimizer"], config["schedule"]) == ("legacy", "adam", "constant")
    assert (config["lr"], config["max_epochs"], config["min_epochs"]) == (1e-3, 180, 180)
    assert config["batch_size"] == 128 and config_of(capsys, parse=flags.parse_main)["batch_size"] == 200
    assert config_of(capsys, "--legacy-net", "--batch_size", "200", parse=flags.parse_main)["batch_size"] == 200
    assert config_of(capsys, "--legacy-net", "--max_epochs", "5", parse=flags.parse_main)["min_epochs"] == 5
    assert "invalid choice: 'all'" in refused(capsys, "--strategy", "all", parse=flags.parse_main)


@pytest.mark.parametrize("flag", ["--network small", "--network=resnet18", "--optimizer sgd", "--schedule restarts"])
def test_the_older_network_goes_with_its_own_optimizer_and_schedule_only(capsys, flag):
    name, value = flag.replace("=", " ").split()
    said = refused(capsys, "--legacy-net", *flag.split(), parse=flags.parse_main)
    assert f"{name} {value}: --legacy-net has its own, " in said
    same = ("--legacy-net", "--optimizer", "adam", "--schedule=constant", "--lr", "0.1")
    assert config_of(capsys, *same, parse=flags.parse_main)["lr"] == 0.1


# --- the class ------------------------------------------------------------------------------------------------------


def test_constructor_of_the_release():
    parameters = inspect.signature(pipeline.Pipeline).parameters
    released = {
        "dataset": "cifar10", "threshold": 90, "n_aug": 5, "strategy": "fine-tuning", "batch_size": 200,
        "max_epochs": 50, "min_epochs": 30, "patience": 4, "alpha": 0.2, "pretrained": True, "use_pseudo": True,
    }  # fmt: skip
    assert {name: parameters[name].default for name in released} == released
    methods = "classify features_extraction uncertain_extraction get_pseudo_labels final_super run_pipeline".split()
    assert all(callable(getattr(pipeline.Pipeline, name)) for name in methods)
    final = inspect.signature(pipeline.Pipeline.final_super).parameters
    assert final["strategy"].default == "fine-tune" and final["alpha"].default == 0.5


def test_constructor_and_flags_resolve_alike(capsys):
    expected = config_of(capsys)
    made = pipeline.Pipeline().config
    for resolved in (made, expected):
        del resolved["argv"], resolved["print_config"]
    assert made == expected
    more = {"pretrained": False, "lr": 0.1, "out_dir": "x"}
    other = pipeline.Pipeline("mnist5k", 80, strategy="multi-head", alpha=0.3, **more).config
    assert (other["dataset"], other["threshold"], other["alpha"], other["lr"]) == ("mnist5k", 80, [0.3], 0.1)
    assert other["stage"][-2:] == ["multi-head", "report"] and other["pretrained"] is False and other["out_dir"] == "x"
    with pytest.raises(ValueError, match="strategy 'transfer'"):
        pipeline.Pipeline(strategy="transfer")
