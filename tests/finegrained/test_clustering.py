"""Clusters of each class, their numbering, the degenerate cases, and the files."""

import json
import os

import numpy as np
import pytest

from finegrained_torch.method import cluster_one_class, clustering
from finegrained_torch.method.cluster_one_class import Settings, decide, fit_class
from finegrained_torch.training import cluster_files, cluster_jobs, setting
from finegrained_torch.training.cluster_jobs import cluster_in_processes
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError


def blobs(counts, dims=6, seed=0, apart=12.0):
    """float32 [sum(counts), dims], one tight blob per entry, and the blob of each point."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.standard_normal((len(counts), dims))
    which = np.repeat(np.arange(len(counts)), counts)
    return (centres[which] + rng.standard_normal((len(which), dims))).astype(np.float32), which


def fine_set(seed=0):
    """Three coarse classes of 3, 1 and 2 blobs in shuffled file order; coarse label of blob b is PARENT[b]."""
    points, which = blobs([60, 60, 60, 50, 70, 40], seed=seed)
    coarse = np.array([2, 2, 2, 0, 1, 1])[which]
    order = np.random.default_rng(seed + 1).permutation(len(points))
    return points[order], coarse[order], which[order]


PLAIN = {"reducer": "none", "min_cluster_size": 12, "workers": 0}


def test_classes_are_visited_as_they_appear():
    rng = np.random.default_rng(3)
    for _ in range(20):
        labels = rng.integers(0, 7, 40)
        seen = []
        for label in labels.tolist():
            if label not in seen:
                seen.append(label)
        assert clustering.visiting_order(labels) == seen


def test_offsets_of_the_notebook():
    """The visiting order and cluster counts of the authors' PathMNIST.ipynb give the ids that it prints."""
    counts = {0: 2, 4: 2, 7: 12, 5: 10, 8: 12, 3: 3, 2: 4, 1: 12, 6: 2}
    printed = {0: (0, 1), 4: (2, 3), 7: (4, 15), 5: (16, 25), 8: (26, 37), 3: (38, 40), 2: (41, 44), 1: (45, 56)}
    printed[6] = (57, 58)
    coarse = np.concatenate([np.full(counts[label], label) for label in counts])
    rows = {label: np.flatnonzero(coarse == label) for label in counts}
    classes = [clustering.ClassRows(label, own) for label, own in rows.items()]
    found = {
        label: cluster_one_class.ClassFit(
            np.zeros((n, 4), np.float32), np.arange(n)[::-1], np.arange(n)[::-1], np.ones(n, np.float32), 0.5
        )
        for label, n in counts.items()
    }
    made = clustering.number_clusters(found, classes, len(coarse), 4)
    assert made.num_labels == 59 and clustering.visiting_order(coarse) == [0, 4, 7, 5, 8, 3, 2, 1, 6]
    for label, (first, last) in printed.items():
        ids = made.pseudo[rows[label]]
        assert (ids.min(), ids.max()) == (first, last)
        assert (made.parent[ids] == label).all()


def test_numbers_are_compacted_so_that_classes_cannot_collide():
    """D15: an arg-max that skips cluster 1 of 3 would let the next class start on an id in use."""
    local, kinds = clustering.compact(np.array([0, 2, 2, 0, 5]))
    assert local.tolist() == [0, 1, 1, 0, 2] and kinds == 3


def test_clusters_are_the_blobs_and_stay_within_their_class():
    points, coarse, which = fine_set()
    certain = np.random.default_rng(9).random(len(points)) < 0.9
    made = cluster_in_processes(points, coarse, certain, **PLAIN)
    assert (made.pseudo[~certain] == -1).all() and (made.raw[~certain] == -1).all()
    assert np.isnan(made.embedding[~certain]).all() and np.isnan(made.strength[~certain]).all()
    assert (made.pseudo[certain] >= 0).all() and sorted(np.unique(made.pseudo[certain])) == list(range(made.num_labels))
    assert (made.parent[made.pseudo[certain]] == coarse[certain]).all()
    assert [entry["class"] for entry in made.per_class] == clustering.visiting_order(coarse)
    clusters = {entry["class"]: entry["clusters"] for entry in made.per_class}
    assert clusters == {2: 3, 0: 1, 1: 2}  # one blob alone is no cluster for HDBSCAN: one pseudo-class (D16)
    for label in np.unique(which[certain]):
        assert len(set(made.pseudo[certain & (which == label)])) == 1
    for entry in made.per_class:
        if entry["clusters"] > 1:
            assert 0.5 < entry["silhouette"] <= 1 and 0 <= entry["noise_share"] < 0.4


def test_noise_takes_its_arg_max_cluster():
    points, _ = blobs([60, 60], seed=2)
    points[:8] = np.random.default_rng(0).uniform(-40, 40, (8, 6))  # far from both, and from each other
    fit = fit_class(points, Settings(min_cluster_size=20, reducer="none"))
    assert (fit.hard == -1).any() and (fit.raw >= 0).all()
    assert set(fit.raw) == {0, 1} and 0 <= fit.strength.min() and fit.strength.max() <= 1


def test_degenerate_classes_become_one_pseudo_class_and_the_rest_goes_on():
    """D16: too few points, equal points, one blob; the class with structure keeps its clusters.

    Nothing is said about noise where HDBSCAN was not run.
    """
    good, _ = blobs([50, 50])
    blob, _ = blobs([80])
    lone = np.zeros((1, 6), np.float32)
    few = np.random.default_rng(0).standard_normal((15, 6)).astype(np.float32)
    equal = np.ones((70, 6), np.float32)
    points = np.concatenate([lone, few, equal, blob, good])
    coarse = np.repeat([5, 4, 3, 1, 2], [1, 15, 70, 80, 100])
    made = cluster_in_processes(points, coarse, np.ones(len(points), bool), **PLAIN)
    assert [entry["clusters"] for entry in made.per_class] == [1, 1, 1, 1, 2] and made.num_labels == 6
    assert [entry["noise_share"] for entry in made.per_class[:4]] == [None, None, None, 1.0]
    assert (made.hard[coarse > 2] == -2).all() and (made.hard[coarse == 1] == -1).all()
    for entry in made.per_class[:4]:
        assert entry["silhouette"] is None and any("one pseudo-class" in text for text in entry["warnings"])
    assert made.per_class[4]["silhouette"] > 0.5 and not made.per_class[4]["warnings"]


def test_a_class_without_certain_images_has_no_label():
    points, coarse, _ = fine_set()
    certain = coarse != 0
    made = cluster_in_processes(points, coarse, certain, **PLAIN)
    (entry,) = [entry for entry in made.per_class if entry["class"] == 0]
    assert entry["clusters"] == 0 and "no certain image" in entry["warnings"][0]
    assert set(made.parent) == {1, 2} and made.num_labels == 5


def slow_decide(memberships, hard, embedding):
    labels = []
    for row, label in zip(memberships, hard, strict=True):
        if np.isfinite(row).all() and row.max() > 0:
            labels.append(int(np.argmax(row)))
        elif label >= 0:
            labels.append(int(label))
        else:
            kinds = sorted({int(k) for k in hard if k >= 0})
            at = len(labels)
            gaps = [float(((embedding[hard == k].mean(0) - embedding[at]) ** 2).sum()) for k in kinds]
            labels.append(kinds[int(np.argmin(gaps))] if kinds else 0)
    return labels


def test_rows_of_zeros_or_nan_take_hard_label_or_nearest_centroid():
    """D17, against the rule written as a loop."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        memberships = rng.random((40, 3))
        hard = rng.integers(-1, 3, 40)
        embedding = rng.standard_normal((40, 2))
        lost = rng.random(40) < 0.4
        memberships[lost & (rng.random(40) < 0.5)] = 0.0
        memberships[lost & (rng.random(40) < 0.5)] = np.nan
        labels, strength, count = decide(memberships, hard, embedding)
        assert labels.tolist() == slow_decide(memberships, hard, embedding)
        dead = ~np.isfinite(memberships).all(1) | (np.nan_to_num(memberships).max(1) == 0)
        assert count == dead.sum() and (strength[dead] == 0).all() and (strength[~dead] > 0).all()
    labels, _, count = decide(np.zeros((3, 2)), np.full(3, -1), np.zeros((3, 2)))
    assert labels.tolist() == [0, 0, 0] and count == 3


def test_processes_give_what_this_process_gives(tmp_path):
    """Features by path and rows, in two spawned processes, against everything here."""
    points, coarse, _ = fine_set()
    certain = np.ones(len(points), bool)
    np.save(tmp_path / "activations.npy", points)
    mapped = np.load(tmp_path / "activations.npy", mmap_mode="r")
    here = cluster_in_processes(points, coarse, certain, **PLAIN)
    there = cluster_in_processes(mapped, coarse, certain, **{**PLAIN, "workers": 2})
    for name in cluster_files.ARRAYS:
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name), err_msg=name)
    assert here.per_class == there.per_class


def test_a_memory_map_is_handed_over_by_its_own_path(tmp_path):
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "f.npy", points)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    with cluster_jobs.on_disk(mapped) as path:
        assert path == str(tmp_path / "f.npy")
    for other in (points, mapped[1:]):  # a slice is not the file
        with cluster_jobs.on_disk(other) as path:
            assert path != str(tmp_path / "f.npy")
            np.testing.assert_array_equal(np.load(path), other)


def test_finished_classes_are_kept_and_only_for_the_same_input(tmp_path, monkeypatch):
    points, coarse, _ = fine_set()
    certain = np.ones(len(points), bool)
    ran, killed = [], []
    plain = cluster_jobs.cluster_one

    def counted(job):
        ran.append(job.rows.label)
        if job.rows.label == 1 and not killed:
            killed.append(job.rows.label)
            raise MemoryError
        return plain(job)

    monkeypatch.setattr(cluster_jobs, "cluster_one", counted)
    with pytest.raises(MemoryError):
        cluster_in_processes(points, coarse, certain, **PLAIN, keep=tmp_path)
    before = list(ran)
    resumed = cluster_in_processes(points, coarse, certain, **PLAIN, keep=tmp_path)
    assert not set(before[:-1]) & set(ran[len(before) :])  # what was finished did not run again
    straight = cluster_in_processes(points, coarse, certain, **PLAIN)
    np.testing.assert_array_equal(resumed.pseudo, straight.pseudo)
    np.testing.assert_array_equal(resumed.strength, straight.strength)
    assert resumed.per_class == straight.per_class
    ran.clear()
    cluster_in_processes(points, coarse, certain, **PLAIN, keep=tmp_path)
    assert not ran
    changed = points.copy()
    changed[coarse == 0] += 1
    cluster_in_processes(changed, coarse, certain, **PLAIN, keep=tmp_path)
    assert ran == [0]
    cluster_in_processes(points, coarse, certain, **{**PLAIN, "min_cluster_size": 13}, keep=tmp_path)
    assert sorted(ran[1:]) == [0, 1, 2]


def test_memory_decides_how_many_classes_run_at_once():
    gib = 1 << 30
    plenty = 64 * gib
    assert cluster_jobs.worker_count([27_000, 18_000], 512, 2, plenty) == 2  # CIFAR-10 on two cores
    assert cluster_jobs.worker_count([27_000, 18_000], 512, 2, 2 * gib) == 1
    assert cluster_jobs.worker_count([27_000, 18_000], 512, 1, plenty) == 1
    assert cluster_jobs.worker_count([10**7], 512, 8, gib) == 1  # one must run
    assert 1.4e9 < cluster_jobs.class_bytes(27_000, 512) < 1.8e9  # measured: 1.6 GB
    for counts in ([30_000, 20_000], [2_500] * 20, [9_000] * 9, [50_000], [16_000] * 3):
        workers = cluster_jobs.worker_count(counts, 512, 64, plenty)
        assert sum(sorted(cluster_jobs.class_bytes(n, 512) for n in counts)[-workers:]) < 3.5 * gib


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reducer": "pca"}, "umap or none"),
        ({"min_cluster_size": 1}, "min_cluster_size 1"),
        ({"coarse": np.zeros(3, np.int64)}, "one label"),
        ({"bad": True}, "image 7 are not finite"),
        ({"equal": True}, "all images are equal; run --stage features"),
    ],
)
def test_bad_input_is_one_clear_line(change, said):
    points, coarse, _ = fine_set()
    if change.pop("bad", False):
        points[7, 2] = np.inf
    if change.pop("equal", False):
        points[:] = points[0]
    coarse = change.pop("coarse", coarse)
    with pytest.raises(UserError, match=said):
        cluster_in_processes(points, coarse, np.ones(len(points), bool), **{**PLAIN, **change})


def test_umap_path_repeats_and_finds_the_blobs():
    """The released path: UMAP to 4-d, HDBSCAN; twice the same."""
    points, which = blobs([90, 90, 90], dims=16, seed=4)
    order = np.random.default_rng(0).permutation(270)[:200]
    points, which = points[order], which[order]
    coarse, certain = np.zeros(200, np.int64), np.ones(200, bool)
    settings = {"neighbors": 15, "min_cluster_size": 25, "workers": 0}
    made = cluster_in_processes(points, coarse, certain, **settings)
    assert made.embedding.shape == (200, 4) and made.num_labels == 3
    for blob in range(3):
        assert len(set(made.pseudo[which == blob])) == 1
    again = cluster_in_processes(points, coarse, certain, **settings)
    np.testing.assert_array_equal(made.embedding, again.embedding)
    np.testing.assert_array_equal(made.pseudo, again.pseudo)
    few = cluster_in_processes(points[:20], coarse[:20], certain[:20], **{**settings, "neighbors": 30})
    assert few.num_labels == 1 and any("19 neighbours" in text for text in few.per_class[0]["warnings"])


@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_features_too_large_for_umap_are_one_pseudo_class(size):
    """Their squares are not finite in float32, so that the random start fails as the spectral one does."""
    rng = np.random.default_rng(0)
    points = (size * rng.choice([-1, 1], (60, 8)) * rng.uniform(0.9, 1, (60, 8))).astype(np.float32)
    fit = fit_class(points, Settings(min_cluster_size=10, neighbors=10))
    assert not fit.raw.any() and np.isfinite(fit.embedding).all()
    assert any("one pseudo-class" in text for text in fit.warnings), fit.warnings
    embedding, _, _ = cluster_one_class.reduce(points, Settings(components=2, neighbors=10))
    assert embedding.shape == (60, 2) and np.isfinite(embedding).all()


@pytest.mark.parametrize("size", [1.0, 1e19, 3e38])
def test_large_features_without_umap_keep_their_clusters_and_their_silhouette(size):
    centres = np.repeat([[1, 1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1]], 20, axis=0)
    points = (size * centres * np.random.default_rng(0).uniform(0.98, 0.99, (60, 4))).astype(np.float32)
    fit = fit_class(points, Settings(min_cluster_size=10, reducer="none"))
    assert len(set(fit.raw)) == 3 and fit.silhouette == pytest.approx(0.997, abs=0.001)


def test_files_have_the_released_names_and_can_be_read_back(tmp_path):
    points, coarse, which = fine_set()
    certain = np.arange(len(points)) % 7 != 0
    made = cluster_in_processes(points, coarse, certain, **PLAIN)
    settings = {"min_cluster_size": 12}
    cluster_files.save_clustering(tmp_path, "toy", made, certain, coarse, settings=settings, fine=which)
    below = tmp_path / "sub_toy"
    np.testing.assert_array_equal(setting.read_column(below / "pseudo.csv"), made.pseudo)
    np.testing.assert_array_equal(setting.read_column(below / "mask.csv"), ~certain)
    np.testing.assert_array_equal(setting.read_column(below / "new_super.csv"), coarse)
    assert ((setting.read_column(below / "pseudo.csv") == -1) == ~certain).all()
    held = read_npz(below / "clustering.npz", cluster_files.ARRAYS)
    for name in cluster_files.ARRAYS:
        np.testing.assert_array_equal(held[name], getattr(made, name))
    facts = json.loads((below / "clusters.json").read_text())
    assert facts["settings"] == settings and facts["num_labels"] == made.num_labels and facts["versions"]
    for label in (0, 1, 2):
        folder = tmp_path / "run" / "sub_toy" / str(label)
        rows = (folder / "tensors.tsv").read_text().splitlines()
        captions = (folder / "metadata.tsv").read_text().splitlines()
        assert len(rows) == len(captions) - 1 == (certain & (coarse == label)).sum()
        assert "tensors.tsv" in (folder / "projector_config.pbtxt").read_text()
    assert list((tmp_path / "run" / "sub_toy" / "2" / "events").rglob("events.out.tfevents*"))


def test_a_killed_process_is_one_clear_line():
    with pytest.raises(UserError, match="want of memory .*27,000 images.*--cluster_workers 1"):
        with cluster_jobs.open_pool([27_000, 5], 512, 1) as pool:
            pool.submit(os._exit, 9).result()
