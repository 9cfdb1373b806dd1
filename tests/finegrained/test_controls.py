"""The control clusterings, and the cluster stage as the pipeline calls it."""

import json

import numpy as np

from finegrained_torch import flags
from finegrained_torch.data.images import Data, Split
from finegrained_torch.method import controls
from finegrained_torch.method.umap_maps import JOINT
from finegrained_torch.training import cluster_stage, setting
from finegrained_torch.training.cluster_jobs import cluster_in_processes

from .test_clustering import PLAIN, fine_set

NAMES = flags.SUB_LABELS[1:]


def made():
    points, coarse, which = fine_set()
    certain = np.arange(len(points)) % 9 != 0
    return points, coarse, which, certain, cluster_in_processes(points, coarse, certain, **PLAIN)


def toy(coarse, fine):
    """A data set of random images with these labels; `fine` None: no subclasses are known."""
    images = np.random.default_rng(0).integers(0, 256, (len(coarse), 8, 8, 3), dtype=np.uint8)
    split = Split(images, coarse, np.full(len(coarse), -1) if fine is None else fine)
    names = () if fine is None else tuple(f"blob {b}" for b in range(6))
    return Data("toy", split, split, None, ("x", "y", "z"), names, (0.5,) * 3, (0.2,) * 3, {}, True)


def flat_maps(file, features, coarse, settings, pool):
    """Two of the features in place of UMAP's maps."""
    return {JOINT: features[:, :2], **{label: features[coarse == label, :2] for label in np.unique(coarse).tolist()}}


def sizes(labels, coarse):
    return {
        int(label): sorted(np.unique(labels[(coarse == label) & (labels >= 0)], return_counts=True)[1].tolist())
        for label in np.unique(coarse)
    }


def test_random_labels_keep_sizes_and_classes_and_nothing_else():
    _, coarse, which, certain, found = made()
    first = controls.random_labels(found.pseudo, coarse, 42)
    assert sizes(first, coarse) == sizes(found.pseudo, coarse)
    assert ((first == -1) == ~certain).all() and (found.parent[first[certain]] == coarse[certain]).all()
    np.testing.assert_array_equal(first, controls.random_labels(found.pseudo, coarse, 42))
    assert (first != controls.random_labels(found.pseudo, coarse, 43)).any()
    assert (first[coarse == 2] != found.pseudo[coarse == 2]).mean() > 0.3
    only = coarse == 2  # the draw of a class does not depend on which other classes there are
    np.testing.assert_array_equal(first[only], controls.random_labels(found.pseudo[only], coarse[only], 42))


def test_kmeans_has_as_many_clusters_as_were_found_and_sees_blobs():
    points, coarse, which, certain, found = made()
    labels = controls.kmeans_labels(points, found.pseudo, coarse, 0)
    assert ((labels == -1) == ~certain).all()
    for label in np.unique(coarse):
        own = certain & (coarse == label)
        assert len(np.unique(labels[own])) == len(np.unique(found.pseudo[own]))
        assert len({(a, b) for a, b in zip(labels[own], found.pseudo[own], strict=True)}) == len(np.unique(labels[own]))
    assert sorted(np.unique(labels[certain])) == list(range(len(np.unique(found.pseudo[certain]))))


def test_kmeans_survives_equal_points():
    pseudo, coarse = np.arange(30) % 3, np.zeros(30, np.int64)
    labels = controls.kmeans_labels(np.ones((30, 4), np.float32), pseudo, coarse, 0)
    assert set(labels) == {0}


def test_the_stage_writes_everything_and_scores_it(tmp_path, monkeypatch, capsys):
    """UMAP replaced by the features themselves, so that this is the stage's test and not UMAP's."""
    points, coarse, which = fine_set()
    points = np.ascontiguousarray(points[:, :4])
    certain = np.arange(len(points)) % 9 != 0
    plain, reducers = cluster_in_processes, []

    def without_umap(*arguments, pool=None, **options):
        reducers.append(options.get("reducer"))
        return plain(*arguments, **{**options, "reducer": "none", "workers": 0})

    monkeypatch.setattr(cluster_stage, "cluster_in_processes", without_umap)
    monkeypatch.setattr(cluster_stage, "make_maps", flat_maps)
    words = ["--min_cluster_size", "12", "--cluster_workers", "1", "--controls", *NAMES]
    below = tmp_path / "sub_toy"
    metrics, details, artefacts = cluster_stage.cluster_stage(
        tmp_path, toy(coarse, which), points, certain, flags.parse_pipeline(words), below, "ab"
    )
    assert reducers == [None, None, "none"]  # the method, nofilter, noumap
    assert json.loads((below / "clusters.json").read_text())["features_sha256"] == "ab"
    values = {name: metric["last"] for name, metric in metrics.items()}
    assert values["ari"] > 0.9 and abs(values["ari_random"]) < 0.5 and values["num_sub"] == 6
    assert values["clusters_per_class"] == 2
    assert {f"ari_{name}" for name in NAMES} < values.keys()
    assert {"noise_certain", "noise_uncertain", "weak_certain", "weak_uncertain", "silhouette"} < values.keys()
    for name in NAMES:
        sub = setting.read_column(below / "controls" / name / "pseudo.csv")
        mask = setting.read_column(below / "controls" / name / "mask.csv")
        assert len(sub) == len(points) and ((sub == -1) == (mask == 1)).all()
        assert ((sub == -1) == (~certain if name != "nofilter" else False)).all()
    assert all((below / item["path"]).exists() for item in artefacts)
    assert not (below / "finished_classes").exists()
    assert json.loads((below / "scores.json").read_text())["metrics"] == json.loads(json.dumps(metrics))
    assert details["scores"]["found"]["per_class"][0]["class"] == 0
    shown = capsys.readouterr().out
    assert "class z" in shown and "the method" in shown and "6 pseudo-labels" in shown


def test_without_known_subclasses_there_are_no_scores(tmp_path, monkeypatch):
    points, coarse, _, certain, found = made()
    monkeypatch.setattr(cluster_stage, "cluster_in_processes", lambda *a, **k: found)
    monkeypatch.setattr(cluster_stage, "make_maps", flat_maps)
    config = flags.parse_pipeline(["--umap_components", "6", "--min_cluster_size", "12"])
    below = tmp_path / "sub_toy"
    (below / "controls" / "random").mkdir(parents=True)  # of an older clustering, which --overwrite replaces
    metrics, details, _ = cluster_stage.cluster_stage(tmp_path, toy(coarse, None), points, certain, config, below, "")
    assert details["scores"] == {} and "ari" not in metrics and metrics["num_sub"]["last"] == found.num_labels
    assert not (tmp_path / "sub_toy" / "contingency.csv").exists() and not (below / "controls").exists()
