"""Probes against scikit-learn, and k-means purity."""

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch.method import probes


def data(seed=0, num=400):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 6, num)
    x = rng.normal(size=(num, 8)) + 1.5 * np.eye(6, 8)[y]
    return torch.tensor(x, dtype=torch.float32), y


def test_logistic_regression_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    x, y = data()
    penalty = 1e-2
    ours = probes.fit_logistic(x, torch.from_numpy(y), 6, penalty, steps=300)
    reference = LogisticRegression(C=1 / (2 * penalty * len(y)), tol=1e-8, max_iter=2000).fit(x.numpy(), y)
    logits = (x @ ours[:-1] + ours[-1]).softmax(1).numpy()
    assert np.allclose(logits, reference.predict_proba(x.numpy()), atol=2e-3)


def test_probe_is_chance_corrected_and_deterministic():
    parts = [data(seed) for seed in (0, 1, 2)]
    level = np.array([0, 0, 0, 0, 0, 1])
    args = ([x for x, _ in parts], [y for _, y in parts], level)
    value = probes.probe(*args)
    assert 0 < value < 1 and value == probes.probe(*args)
    noise = [torch.randn(400, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    assert probes.probe(noise, args[1], level) == pytest.approx(0, abs=0.1)
    assert probes.probe(args[0], args[1], np.arange(6)) > 0.5


def test_test_images_of_one_group_tell_nothing_about_it():
    (x, y), (tested, of_test) = data(), data(1)
    level, inside = np.array([0, 0, 0, 0, 0, 1]), of_test < 5
    assert np.isnan(probes.probe([x, x, tested[inside]], [y, y, of_test[inside]], level))


def test_constant_features_do_no_harm():
    x, y = data()
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    out = probes.standardise(x, x)
    assert torch.isfinite(out[0]).all() and (out[0][:, -1] == 0).all()


def test_purity_of_separate_clusters_is_one():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 300)
    x = 20 * np.eye(3)[groups] + rng.normal(size=(300, 3))
    assert probes.kmeans_purity(x, groups) == 1.0
    assert probes.kmeans_purity(rng.normal(size=(300, 3)), groups) < 0.55
