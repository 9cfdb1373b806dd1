"""The commands behind `make reproduce-class2str`: what ARGS and DEVICE do to them."""

import shlex

import pytest

from class2str_tf import reproduce
from class2str_tf.flags import fc_parser, rnn_parser
from class2str_tf.stage1_folder import ARCHITECTURE
from reproduction.launch.pipeline import Request, one_thread_each
from reproduction.runtime.run_folder import UserError


def commands(profile: str, args: str = "", dataset: str = "mnist", device: str = "cpu"):
    request = Request(profile, dataset, (0, 1), device, tuple(shlex.split(args)))
    return one_thread_each(request, reproduce.commands_of(request))


def value(flags: tuple[str, ...], name: str) -> str:
    """The value that argparse will take: the last one."""
    return flags[len(flags) - flags[::-1].index(name)]


@pytest.mark.parametrize(
    ("args", "stage1"),
    [
        ("--epochs 7", ("--epochs", "7")),
        ("--mu 0.5 --lenet poster --epochs=7 --finetune all", ("--lenet", "poster", "--epochs=7")),
        ("--lenet-relu --w_c 2", ("--lenet-relu",)),
        ("--w_c 2 --label-grad stop", ()),
    ],
)
def test_stage1_gets_the_network_and_the_length(args, stage1):
    assert reproduce.for_stage1(tuple(shlex.split(args))) == stage1


@pytest.mark.parametrize("flag", reproduce.BOTH_STAGES)
def test_flags_of_both_stages_are_found_in_both_spellings(flag):
    parsers = (fc_parser("s"), rnn_parser("s", "cifar10", "vgg16"))
    assert all(flag in parser._option_string_actions for parser in parsers)
    for spelling in {flag, "--" + flag[2:].replace("-", "_")}:
        for words in ((spelling, "x"), (f"{spelling}=x",)):
            assert reproduce.for_stage1(("--w_c", "2", *words, "--mu", "1")) == words


def test_what_stage2_adopts_from_stage1_or_refuses_is_given_to_both():
    assert {f"--{name}".replace("_", "-") for name in (*ARCHITECTURE, "hold_out")} <= set(reproduce.BOTH_STAGES)


@pytest.mark.parametrize("args", ["--hold-out", "--w_c 2 --train_images=500"])
def test_matched_refuses_args_that_would_change_its_stage1(args):
    request = Request("matched", "mnist", (0,), "cpu", tuple(args.split()))
    with pytest.raises(UserError, match="^ARGS: --(hold-out|train_images=500): profile matched fixes stage 1"):
        reproduce.commands_of(request)


@pytest.mark.parametrize("profile", ["paper", "cpu", "smoke"])
def test_args_win_over_the_profile_in_both_stages(profile):
    for command in commands(profile, "--epochs 7"):
        assert value(command.flags, "--epochs") == "7"
        assert command.row == f"mnist-{profile}-epochs-7"
    assert len({command.folder for command in commands(profile, "--epochs 7")}) == 4


def test_stage1_is_shared_where_args_do_not_touch_it():
    plain, other = commands("cpu"), commands("cpu", "--w_c 2")
    assert plain[0] == other[0]
    fc_parser("train_fc_classifier.py").parse_args(list(plain[0].flags))


def test_the_papers_digits_are_those_of_the_released_reader():
    for command in commands("paper"):
        assert value(command.flags, "--train-images") == "first:50000"
    assert all("--train-images" not in command.flags for command in commands("paper", dataset="cifar10"))
    for command in commands("paper", "--train-images 0"):
        assert value(command.flags, "--train-images") == "0"


def test_the_papers_settings_on_a_cpu_share_its_cores():
    assert {command.threads for command in commands("paper")} == {1}
    assert {command.threads for command in commands("paper", device="auto")} == {0}
