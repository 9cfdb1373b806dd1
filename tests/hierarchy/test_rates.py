"""The choice of the learning rates: accuracy on all held-out images, gradient norms, one rate for all with branches."""

import json

import numpy as np
import pytest

from hierarchy_cnn_torch import analyze, flags
from hierarchy_cnn_torch.report import rates
from reproduction.compare.collect import collect
from reproduction.compare.extras import extras_of
from reproduction.compare.tables import paper_of
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.record import load_record
from reproduction.runtime.run_folder import UserError

ROW = "cifar100-q90-matched-rates"
RIGHT = {  # of 100 held-out images: A1 alone would choose 0.05, A2 alone 0.15
    "0.0167": {"A0": 40, "A1": 30, "A2": 20},
    "0.05": {"A0": 38, "A1": 41, "A2": 31},
    "0.15": {"A0": 30, "A1": 37, "A2": 36},
}
SCALE = {"A0": 1.0, "A1": 3.0, "A2": 2.0}


def trained(top, rate, arm, right):
    """A finished training that is right on so many of 100 held-out images, the last of them."""
    folder = top / f"rate{rate}" / arm
    folder.mkdir(parents=True)
    labels = np.arange(100) % 10
    logits = np.eye(10, dtype=np.float32)[np.where(np.arange(100) >= 100 - right, labels, (labels + 1) % 10)]
    write_npz(folder / "predictions.npz", {"val_logits": logits, "val_labels": labels})
    norms = np.stack([np.tile([0.1, 0.2, 0.3, 0.4, 0.5], (8, 1)) * SCALE[arm] * k for k in (1, 9)], 1)
    write_npz(folder / "curves.npz", {"gradients": norms.astype(np.float32)})
    config = flags.resolve_train(flags.train_parser().parse_args(["--dataset", "cifar100", "--lr", rate]))
    (folder / "config.json").write_text(json.dumps(flags.of_run(config)))
    record = {"data": {"train": "00"}, "data_verified": False, "precision": "float32", "deterministic": True}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "DONE").write_text("{}")


@pytest.fixture
def top(tmp_path):
    top = tmp_path / "hierarchy" / ROW / "seed0"
    for rate, row in RIGHT.items():
        for arm, right in row.items():
            trained(top, rate, arm, right)
    return top


def test_each_rate_and_variant_is_measured_on_all_held_out_images(top):
    swept = rates.measure(top)
    assert list(swept) == list(RIGHT)
    for rate, row in RIGHT.items():
        assert {arm: 100 * numbers["accuracy"] for arm, numbers in swept[rate].items()} == pytest.approx(row)
        for arm, numbers in swept[rate].items():
            norms = [numbers[f"conv{at}"] for at in range(1, 6)]
            np.testing.assert_allclose(norms, SCALE[arm] * np.array([0.1, 0.2, 0.3, 0.4, 0.5]), rtol=1e-6)


def test_networks_with_branches_get_the_rate_at_which_they_do_best_together(top):
    swept = rates.measure(top)
    assert rates.best_rates(swept) == {"flat": 0.0167, "aware": 0.15}
    text = rates.table(swept)
    assert text.count("| best") == 3 and "flat 0.0167, with branches 0.15" in text
    assert "smallest or largest that was tried" in text
    for rate in swept:
        swept[rate]["A0"]["accuracy"] = swept[rate]["A1"]["accuracy"] = float(rate == "0.05")
        swept[rate]["A2"]["accuracy"] = 0.5
    assert rates.best_rates(swept) == {"flat": 0.05, "aware": 0.05}
    assert "smallest or largest" not in rates.table(swept)


def test_the_command_writes_a_table_and_a_record_that_the_pages_show(top, capsys):
    words = ["--rates", str(top), "--row", ROW, "--accept-unverified", "--device", "cpu"]
    analyze.analyze(flags.resolve_analyze(flags.analyze_parser().parse_args(words)))
    assert (top / "rates" / "rates.md").read_text() in capsys.readouterr().out
    record = load_record(top / "rates" / "record.json")
    assert (record.row, record.profile, record.data_verified) == (ROW, "matched", False)
    assert {name: value.last for name, value in record.metrics.items()} == {"rate_flat": 0.0167, "rate_aware": 0.15}
    found = collect(paths=[top / "rates" / "record.json"])
    [shown] = extras_of(paper_of("hierarchy"), found)
    assert shown.head[:4] == ("row", "rate", "variant", "held-out accuracy %")
    assert [row[1:4] for row in shown.rows] == [[r, a, f"{n}.00"] for r, row in RIGHT.items() for a, n in row.items()]


@pytest.mark.parametrize("lacking", ["rate0.05/A0", "rate0.15/A2", ""])
def test_a_sweep_that_has_not_finished_is_one_line(top, tmp_path, lacking):
    if lacking:
        (top / lacking / "DONE").unlink()
    with pytest.raises(UserError, match="must have finished at every rate"):
        rates.measure(top if lacking else tmp_path / "nothing")


def test_a_damaged_training_is_one_line(top):
    (top / "rate0.05" / "A1" / "curves.npz").write_bytes(b"PK damaged")
    words = ["--rates", str(top), "--row", ROW, "--device", "cpu"]
    with pytest.raises(UserError, match=r"curves\.npz"):
        analyze.analyze(flags.resolve_analyze(flags.analyze_parser().parse_args(words)))


@pytest.mark.parametrize("words", [[], ["--run", "a", "--rates", "b"], ["--summary", "a", "--rates", "b"]])
def test_one_thing_at_a_time(words):
    with pytest.raises(UserError, match="give one of --run"):
        flags.resolve_analyze(flags.analyze_parser().parse_args(words))
