"""The fast training of the profile matched: one cycle, the fast network, equal updates, random classes, copies."""

import dataclasses

import torch

from reproduction.launch.pipeline import Request
from subclass_torch import flags, ranking, reproduce
from subclass_torch.networks import build
from subclass_torch.training import stage2

REQUEST = Request("matched", "cifar10", (0, 1), "cpu", (), False, None)


def test_new_flags_leave_the_flags_of_older_runs_alone():
    config = flags.parse(["--subclass"])
    kept = flags.of_run(config, stage1=False)
    assert not kept.keys() & flags.SINCE.keys()
    assert flags.of_run(dataclasses.replace(config, schedule="onecycle"), stage1=True)["schedule"] == "onecycle"


def test_whitened_patches_are_uncorrelated():
    torch.manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 40, 40), 5, 1, 2)[:, :, 4:36, 4:36] * 4
    network = build.build("vgg_fast", "cifar10", 10)
    network.whiten(images)
    out = network.whitening(images)[:, :12].permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(out.T @ out / len(out), torch.eye(12), atol=0.05)
    assert torch.equal(network.whitening.weight[12:], -network.whitening.weight[:12])
    assert network(images).shape == (64, 10) and network.penultim_layer(
        network.features(out.new_zeros(2, 24, 31, 31))
    ).shape == (2, 128)


def test_random_classes_are_others_and_the_same_for_each_seed():
    assert stage2.random_classes([3, 5], 10) == stage2.random_classes([5, 3], 10)
    assert not set(stage2.random_classes([3, 5], 10)) & {3, 5}
    assert len(set(stage2.random_classes(list(range(5)), 10))) == 5


def test_the_mean_ranking_orders_by_rank_then_theta():
    ranks, mean, order = ranking.mean_ranking([[3.0, 2.0, 1.0], [2.0, 9.0, 1.0]])
    assert ranks == [[1, 2, 3], [2, 1, 3]] and mean == [1.5, 1.5, 3.0] and order == [1, 0, 2]
    assert ranking.correlation([1, 2, 3], [3, 2, 1]) == -1 and ranking.correlation([1, 2, 3], [1, 2, 3]) == 1


def test_every_variant_takes_the_one_file_which_is_made_before():
    commands = reproduce.commands_of(REQUEST)
    alone = [at for at, command in enumerate(commands) if command.lane is None]
    assert [commands[at].script for at in alone] == [reproduce.RANKING]
    before, after = commands[: alone[0]], commands[alone[0] + 1 :]
    assert len(before) == reproduce.RANKED and all("identify" in command.flags for command in before)
    file = f"runs/subclass/{commands[alone[0]].row}/neglected.json"
    assert [command.row for command in after] == 2 * [
        "cifar10-matched-baseline", "cifar10-matched", "cifar10-matched-doubled", "cifar10-matched-random",
    ]  # fmt: skip
    for command in after:
        words = list(command.flags)
        assert words[words.index("--neglected") + 1] == file
        assert words[words.index("--max_steps") + 1] == str(reproduce.UPDATES)
        flags.parse(words)  # valid
    further = reproduce.commands_of(dataclasses.replace(REQUEST, all_rows=True))[len(commands) :]
    assert [command.row.removeprefix("cifar10-matched-") for command in further] == 2 * list(reproduce.FURTHER)
