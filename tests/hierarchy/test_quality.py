"""Doubtful labels: planted flips and redundant labels are found, duplicates too."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchy_cnn_torch.data import label_noise, tree_files
from hierarchy_cnn_torch.method import label_quality, trees
from hierarchy_cnn_torch.report.label_study import study_labels
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.run_folder import UserError

LEVEL = np.arange(12) // 3


def made_up_predictions(labels, level, rng, confusion=0.9):
    """Probabilities of a network that is mostly right and mixes up classes of one group."""
    num_classes = len(level)
    logits = rng.normal(size=(len(labels), num_classes))
    logits += 2.2 * np.eye(num_classes)[labels] + 2.5 * confusion * (level[labels][:, None] == level[None])
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_planted_flips_are_half_near_half_far_and_never_the_old_label():
    labels = np.random.default_rng(0).integers(0, 12, 5000)
    noisy, kind = label_noise.plant_noise(labels, LEVEL, 0.02, 1)
    assert (kind == 1).sum() == (kind == 2).sum() == 50
    assert ((noisy != labels) == (kind > 0)).all()
    assert (LEVEL[noisy[kind == 1]] == LEVEL[labels[kind == 1]]).all()
    assert (LEVEL[noisy[kind == 2]] != LEVEL[labels[kind == 2]]).all()
    again = label_noise.plant_noise(labels, LEVEL, 0.02, 1)
    assert (again[0] == noisy).all()
    allowed = labels != 3
    assert not label_noise.plant_noise(labels, LEVEL, 0.02, 1, allowed)[1][labels == 3].any()


def test_classes_alone_in_their_group_only_get_far_flips():
    labels = np.zeros(100, int)
    _, kind = label_noise.plant_noise(labels, np.array([0, 1, 1]), 0.1, 0)
    assert (kind == 1).sum() == 0


def test_far_flips_are_easier_than_near_ones_and_both_beat_chance():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 12, 6000)
    probabilities = made_up_predictions(labels, LEVEL, rng)
    noisy, kind = label_noise.plant_noise(labels, LEVEL, 0.02, 3)
    scores = label_quality.label_scores(probabilities, noisy, [LEVEL])
    found = label_quality.retrieval(scores["s2"], kind)
    assert found["auroc_far"] > found["auroc_near"] > 0.8 and found["auroc_near"] < 1
    assert found["precision_far"] > 0.3


def test_scores_equal_a_loop():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(12) * 0.3, 200)
    labels = rng.integers(0, 12, 200)
    scores = label_quality.label_scores(p, labels, [LEVEL])
    for n in range(200):
        order = np.argsort(-p[n])
        height = {(a, b): 0 if a == b else (1 if LEVEL[a] == LEVEL[b] else 2) for a in range(12) for b in range(12)}
        s1 = p[n, order[0]] - p[n, labels[n]] if order[0] != labels[n] else 0
        assert scores["s1"][n] == pytest.approx(s1)
        assert scores["s2"][n] == pytest.approx(s1 * height[order[0], labels[n]])
        gap = p[n, order[0]] - p[n, order[1]]
        assert scores["s3"][n] == pytest.approx(height[order[0], order[1]] * (1 - gap) if gap <= 0.1 else 0)


def test_retrieval_of_a_perfect_and_a_useless_score():
    kind = np.array([0] * 90 + [1] * 5 + [2] * 5)
    perfect = label_quality.retrieval((kind > 0).astype(float), kind)
    assert perfect["auroc_near"] == perfect["auroc_far"] == perfect["precision_all"] == 1
    assert label_quality.retrieval(np.zeros(100), kind)["auroc_all"] == 0.5


def test_a_split_class_is_the_first_redundant_pair():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(12), 100)
    split = label_noise.split_class(labels, 7, 12, 0)
    assert (split == 12).sum() == 50 and ((split == 12) <= (labels == 7)).all()
    probabilities = made_up_predictions(labels, LEVEL, rng)
    wide = np.concatenate([probabilities, np.zeros((len(labels), 1))], 1)
    half = rng.random(len(labels))
    wide[:, 12], wide[:, 7] = wide[:, 7] * half, wide[:, 7] * (1 - half)
    first = label_quality.redundant_pairs(confusion_counts(split, wide.argmax(1), wide.shape[1]))[0]
    assert first[:2] == (7, 12)


def test_duplicates_across_classes_are_found():
    rng = np.random.default_rng(6)
    images = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    images[250] = images[10]
    images[251] = np.clip(images[11].astype(int) + 3, 0, 255).astype(np.uint8)
    images[252] = images[12]
    labels = np.arange(300) % 7
    labels[252] = labels[12]  # same label: no issue
    pairs = label_quality.duplicates(label_quality.difference_hash(images), labels, block=64)
    assert (10, 250) in [p[:2] for p in pairs] and (11, 251) in [p[:2] for p in pairs]
    assert (12, 252) not in [p[:2] for p in pairs] and len(pairs) == 2
    assert label_quality.difference_hash(images[:, :28, :28, :1]).shape == (300,)


def test_the_study_lists_doubtful_images_alone(tmp_path):
    """Fewer than 60 errors are not filled up with images whose label nobody doubts."""
    names, labels = ("a", "b", "c"), np.arange(90) % 3
    probabilities = np.full((90, 3), 0.1)
    probabilities[np.arange(90), labels] = 0.8
    probabilities[7], probabilities[40] = (0.8, 0.1, 0.1), (0.46, 0.46, 0.08)  # far and confident; two far classes
    labels[7], labels[40] = 2, 0
    (fold := tmp_path / "fold0").mkdir()
    (fold / "DONE").touch()
    (fold / "config.json").write_text(json.dumps({"folds": 1, "split_class": -1}))
    tree_files.save_tree(fold / "noise_tree.json", trees.tree_of([np.array([0, 1, 1])], names))
    kind = (np.arange(90) == 7) * 2
    np.savez(
        fold / "fold.npz",
        probabilities=probabilities,
        labels=labels,
        true_labels=labels,
        kind=kind,
        index=np.arange(90) + 1000,
    )
    images = np.random.default_rng(0).integers(0, 256, (90, 9, 9, 1), np.uint8)
    data = SimpleNamespace(names=names, images=images, true_labels=labels)
    quality = study_labels(tmp_path, data)["quality"]
    for name, listed, planted in (("s2", [1007], [2]), ("s3", [1040], [0])):
        assert quality[f"images_{name}"] == listed and quality[f"planted_{name}"] == planted
        assert len(quality[f"labels_{name}"]) == len(quality[f"predicted_{name}"]) == 1


def test_folds_of_two_studies_are_refused(tmp_path):
    """With fold 0 of 2 and fold 1 of 3 some images would be judged twice, and others by no network."""
    parts = np.random.default_rng(0).permutation(30)
    for fold, folds in ((0, 2), (1, 3)):
        (folder := tmp_path / f"fold{fold}").mkdir()
        (folder / "DONE").touch()
        (folder / "config.json").write_text(json.dumps({"folds": folds, "split_class": -1}))
        np.savez(folder / "fold.npz", index=np.flatnonzero(parts % folds == fold))
    with pytest.raises(UserError, match="folds overlap, they ran with different --folds"):
        study_labels(tmp_path, SimpleNamespace(names=["a"]))
