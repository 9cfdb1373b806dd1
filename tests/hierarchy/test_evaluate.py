"""The accuracy of the epoch that was best on the held-out part, measured without losing the last weights."""

from dataclasses import replace

import pytest
import torch

from hierarchy_cnn_torch.networks import alexnet
from hierarchy_cnn_torch.training import evaluate, loop, state
from reproduction.runtime.run_folder import Stop, UserError
from reproduction.runtime.torch_runtime import World

from . import ddp_worker as worker

ALONE = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("held_out", "stored"),
    [([0.6, 0.5], True), ([0.5, 0.6, 0.6], True), ([0.5, 0.6], False), ([0.5], False), ([], False)],
    ids=["earlier", "first of equals", "last", "only one", "trained on"],
)
def test_the_best_epoch_is_read_and_the_last_weights_come_back(tmp_path, held_out, stored):
    """What follows `evaluate_splits`, the class tree and the record, is about the last weights."""
    network, data = worker.make_network(), worker.make_data()
    best = alexnet.Network(alexnet.PRESETS["mini"], 3, 4, worker.BRANCHES.outputs(), bn=True, seed=2, hidden=16)
    if stored:
        state.keep_best(tmp_path, best)
    scores, _ = evaluate.scores_of(best, data.test_images, data, worker.CONFIG, ALONE)
    data.test_labels = scores.argmax(1).numpy()  # so that the stored weights, and no others, are right everywhere
    last, heads = evaluate.scores_of(network, data.test_images, data, worker.CONFIG, ALONE)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    history = [{"train/loss": 1.0}, *({"val/accuracy": accuracy} for accuracy in held_out)]
    splits = evaluate.evaluate_splits(network, data, worker.CONFIG, ALONE, history, tmp_path)
    assert splits.last == evaluate.accuracy_of(last, data.test_labels) < 1
    assert splits.best_on_val == (1 if stored else splits.last)
    assert torch.equal(splits.test, last) and all(map(torch.equal, splits.test_heads, heads))
    after = network.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)


def test_a_last_update_that_loses_the_network_is_one_line(tmp_path):
    """The loss of a step is taken before its update, so the last one of a training cannot show it."""
    config = replace(worker.CONFIG, epochs=1, batch=64, lr=1e30)  # one step
    with pytest.raises(UserError, match="^A1: the scores of the network are not finite; train it with --lr below"):
        loop.run(config, worker.make_network(), worker.make_data(), worker.BRANCHES, ALONE, Stop(), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.pt"))
