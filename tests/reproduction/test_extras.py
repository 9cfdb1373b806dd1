"""Further tables that a toml asks for: rows compared image by image, and entries of the records' details."""

from __future__ import annotations

import numpy as np

from reproduction.compare.collect import collect
from reproduction.compare.extras import extras_of
from reproduction.compare.tables import paper_of
from reproduction.runtime.arrays import write_npz

PAPER = paper_of("finegrained")


def run(make, root, row, seed, right, label=0, **details):
    """One finished training that classifies the images of `right` correctly, all of one class."""
    metrics = {"accuracy": make.metric(float(np.mean(right)))}
    record = make.record(metrics, paper="finegrained", row=row, seed=seed, stage="coarse", details=details)
    folder = make.put(root, record).parent
    labels = np.full(len(right), label)
    write_npz(folder / "predictions.npz", {"labels": labels, "predicted": labels + ~np.array(right)})
    return folder


def tables(root):
    found = collect(runs=root, results=root / "none")
    return {extra.title: extra for extra in extras_of(PAPER, found)}, found


def test_rows_are_paired_by_their_base_and_a_damaged_file_is_a_line(make, tmp_path):
    for seed in (0, 1):
        run(make, tmp_path, "mnist5k-cpu", seed, [True, True, False, False])
        broken = run(make, tmp_path, "mnist5k-cpu-ft", seed, [True, True, True, False])
        run(make, tmp_path, "cifar10-cpu", seed, [True, False])
        run(make, tmp_path, "cifar10-cpu-ft", seed, [True, False, True])  # another test set
        run(make, tmp_path, "cifar10-cpu-mh09", seed, [True, True], label=1)  # another one of the same size
    (broken / "predictions.npz").write_bytes(b"PK damaged")
    made, found = tables(tmp_path)
    table = made["Row against row, image by image"]
    assert table.head == ("a", "b", "seed 0", "seed 1")
    assert table.rows == [["mnist5k-cpu-ft", "mnist5k-cpu", "1 : 0, p = 1", "-"]]
    assert any("predictions.npz" in problem and "--overwrite" in problem for problem in found.problems)
    for row in ("cifar10-cpu-ft", "cifar10-cpu-mh09"):
        assert f"{row} and cifar10-cpu, seed 0: predictions of different test sets" in found.problems


def test_predictions_of_another_length_than_the_labels_are_a_line(make, tmp_path):
    run(make, tmp_path, "mnist5k-cpu", 0, [True, False])
    broken = run(make, tmp_path, "mnist5k-cpu-ft", 0, [True, True])
    write_npz(broken / "predictions.npz", {"labels": np.zeros(2, int), "predicted": np.zeros(3, int)})
    made, found = tables(tmp_path)
    assert "Row against row, image by image" not in made
    assert any("not one prediction for each label" in problem for problem in found.problems)


def test_details_are_means_over_seeds_and_rows_without_them_are_left_out(make, tmp_path):
    for seed, ari in ((0, 0.5), (1, 0.7)):
        scores = {
            "found": {"per_class": [{"class": 1, "ari": ari}], "class_mean": {"ari": ari}},
            "kmeans": {"per_class": [{"class": 1, "ari": -0.0}], "class_mean": {}},
        }
        run(make, tmp_path, "mnist5k-cpu", seed, [True], scores=scores, class_names=["zero", "one"], lr=0.05)
        run(make, tmp_path, "mnist5k-cpu-ft", seed, [True])
    made, _ = tables(tmp_path)
    by_class = made["Clusters against the known subclasses, by coarse class"]
    assert by_class.head[:4] == ("row", "clustering", "class", "ARI")
    assert [row[:4] for row in by_class.rows] == [
        ["mnist5k-cpu", "UMAP + HDBSCAN (the method)", "one", "0.600 ± 0.141"],
        ["mnist5k-cpu", "k-means in the same 4-d space, same k", "one", "0.000"],
    ]
    assert made["What each row trained on"].rows == [["mnist5k-cpu", "-", "0.05", "-", "-"]]
    assert "Clusters of each coarse class" not in made


def test_details_of_another_shape_draw_no_table(make, tmp_path):
    run(make, tmp_path, "mnist5k-cpu", 0, [True], per_class="text", scores=[1, {"per_class": 3}], class_names=7)
    made, found = tables(tmp_path)
    assert not [title for title in made if "luster" in title] and not found.problems


def test_a_metric_can_be_the_sum_over_entries_of_a_list_in_the_details(make, tmp_path):
    clusters = [{"class": 4, "clusters": 3}, {"class": 1, "clusters": 2}, {"class": 14, "clusters": 5}, "no entry"]
    run(make, tmp_path, "cifar100-cpu", 0, [True], per_class=clusters, other=7)
    [found] = collect(runs=tmp_path, results=tmp_path / "none").rows["finegrained", "cifar100-cpu"].runs
    sums = {"1": 2, "4,14": 8, "1,4,14": 10, "4": 3}
    for classes, expected in sums.items():
        assert found.number(f"per_class[class={classes}].clusters", "last") == expected
    for absent in ("per_class[class=1,9].clusters", "per_class[class=1].purity", "other[class=1].clusters"):
        assert found.number(absent, "last") is None


def test_a_metric_can_be_the_difference_of_two(make, tmp_path):
    make.put(tmp_path, make.record({"train": make.metric(0.75), "test": make.metric(0.5)}, row="mnist-paper"))
    [found] = collect(runs=tmp_path, results=tmp_path / "none").rows["class2str", "mnist-paper"].runs
    assert found.number("train - test", "last") == 0.25
    assert found.number("train - absent", "last") is None and found.number("absent - test", "last") is None
