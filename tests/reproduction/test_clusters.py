"""The table of clusters by coarse class: every cell is the mean over seeds of what the records hold."""

from __future__ import annotations

from reproduction.compare.clusters import markdown_clusters
from reproduction.compare.collect import collect


def put(make, root, row, seed, **details):
    make.put(root, make.record({}, paper="finegrained", row=row, seed=seed, stage="cluster", details=details))


def scores(ari):
    return {"per_class": [{"class": 1, "ari": ari, "nmi": ari / 2, "subclasses": 5}]}


def test_a_class_has_its_counts_scores_controls_and_stability(make, tmp_path):
    for seed, clusters in ((0, 2), (1, 4)):
        kinds = {"found": scores(0.2 + 0.2 * seed), "kmeans": scores(0.1), "random": scores(0.0)}
        per_class = [{"class": 1, "clusters": clusters, "noise_share": 0.25}]
        names = ["fish", "trees"]
        put(make, tmp_path, "cifar100-q90-matched", seed, per_class=per_class, scores=kinds, class_names=names)
        put(make, tmp_path, "cifar100-q90-cpu", seed, per_class=per_class, scores=kinds, class_names=names)
    by_class = [{"class": 1, "found": 0.6, "kmeans": 0.5}]
    put(make, tmp_path, "cifar100-q90-matched-stability", 0, stability_by_class=by_class)
    text = markdown_clusters(collect(runs=tmp_path, results=tmp_path / "none"))
    [line] = [line for line in text.splitlines() if line.startswith("| trees")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    ari, nmi = ["0.300 ± 0.141", "0.100", "0.000", "-"], ["0.150 ± 0.071", "0.050", "0.000", "-"]
    assert cells == ["trees", "3.0 ± 1.4", "5", "25.0", *ari, *nmi, "0.600"]
    head = next(line for line in text.splitlines() if line.startswith("| class"))
    assert head.count("|") == line.count("|") and "NMI, no UMAP" in head
    assert "`cifar100-q90-matched`, 2 seeds:" in text and "cpu" not in text


def test_without_scores_there_is_no_table(make, tmp_path):
    put(make, tmp_path, "cifar10-matched", 0, per_class="text", scores=[1], class_names=7)
    assert markdown_clusters(collect(runs=tmp_path, results=tmp_path / "none")) == "No row of the matched profile yet."
