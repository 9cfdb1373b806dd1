"""Streaming responses: sums, the float16 file, top images, hooks."""

import numpy as np
import pytest
import torch

from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.method import responses, selectivity
from hierarchy_cnn_torch.report import layers, response_file
from hierarchy_cnn_torch.training import evaluate

from . import ddp_worker as worker


def batches_of(values, labels, size=64):
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        yield {"a": values[part]}, labels[part], np.arange(start, min(start + size, len(labels)))


def test_streamed_sums_and_top_images_equal_one_shot(tmp_path):
    rng = np.random.default_rng(0)
    values, labels = rng.random((1300, 9)).astype(np.float32) * 7, rng.integers(0, 5, 1300)
    sums, tops = response_file.stream(batches_of(values, labels), 1300, 5, tmp_path)["a"]
    for k in range(5):
        assert sums.mean()[k] == pytest.approx(values[labels == k].mean(0, dtype=float))
    assert (tops.images == np.argsort(-values, axis=0, kind="stable")[:25]).all()
    stored, scale = response_file.open_responses(tmp_path / "a")
    assert np.allclose(stored.astype(np.float32) * scale, values, rtol=1e-3, atol=1e-4)


def test_large_responses_do_not_overflow_float16(tmp_path):
    values = np.full((40, 2), 3e6, np.float32)
    values[:, 1] = 0
    response_file.stream(batches_of(values, np.zeros(40, int), 16), 40, 1, tmp_path)
    stored, scale = response_file.open_responses(tmp_path / "a")
    assert np.isfinite(stored).all() and np.allclose(stored[:, 0].astype(float) * scale[0], 3e6, rtol=1e-3)


def test_missing_rows_are_noticed(tmp_path):
    with pytest.raises(ValueError, match="40 of 50 rows"):
        response_file.stream(batches_of(np.ones((40, 2), np.float32), np.zeros(40, int)[:40], 40), 50, 1, tmp_path)


def test_aggregates():
    maps = torch.relu(torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)))
    flat = maps.flatten(2).numpy()
    assert np.allclose(responses.aggregate(maps), flat.mean(2))
    assert np.allclose(responses.aggregate(maps, "max"), flat.max(2))
    assert np.allclose(responses.aggregate(maps, "q95"), np.quantile(flat, 0.95, axis=2), atol=1e-6)
    assert responses.aggregate(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match="one of mean, max, q95"):
        responses.aggregate(maps, "median")


def test_hooks_are_removed_even_after_an_error():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), responses.tapped({"x": layer}, lambda y: y) as caught:
        layer(torch.ones(1, 2))
        assert caught["x"].shape == (1, 2)
        raise RuntimeError("stop")
    assert not layer._forward_hooks


def test_class_correlation_standardises_channels_first():
    rng = np.random.default_rng(1)
    profiles = rng.random((6, 30))
    z = (profiles - profiles.mean(0)) / profiles.std(0)
    assert np.allclose(responses.class_correlation(profiles), np.corrcoef(z))
    assert np.allclose(responses.class_correlation(profiles * np.linspace(1, 900, 30)), np.corrcoef(z))
    profiles[:, 3] = 2
    assert np.isfinite(responses.class_correlation(profiles)).all()


def test_a_class_without_images_leaves_the_others_correlations_alone():
    profiles = np.random.default_rng(2).random((6, 30))
    expected = responses.class_correlation(np.delete(profiles, 4, 0))
    profiles[4] = np.nan
    values = responses.class_correlation(profiles)
    assert np.array_equal(np.delete(np.delete(values, 4, 0), 4, 1), expected)
    assert values[4].tolist() == values[:, 4].tolist() == [0, 0, 0, 0, 1, 0]


def test_untrained_responses_of_a_layer_are_joined_once_for_all_levels(tmp_path, monkeypatch):
    config = flags.resolve_train(flags.train_parser().parse_args(["--preset", "mini", "--device", "cpu"]))
    run = layers.FlatRun(tmp_path, config, worker.make_data(), torch.device("cpu"))
    (tmp_path / "weights").mkdir()
    for epoch in (0, 1):
        torch.save(evaluate.rebuild(config, run.data).state_dict(), tmp_path / "weights" / f"epoch-{epoch:04d}.pt")
    measured, best_with_null = [], selectivity.best_with_null

    def watched(values, labels, level):
        measured.append(values)
        return best_with_null(values, labels, level)

    monkeypatch.setattr(selectivity, "best_with_null", watched)
    levels = [np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])]
    asked = flags.resolve_analyze(flags.analyze_parser().parse_args(["--run", "x"]))
    found = layers.measure_responses(run, levels, asked, tmp_path)["selectivity"]
    untrained = measured[: 2 * len(found)]
    assert len(measured) == 2 * len(untrained) and all(
        a is b for a, b in zip(untrained[::2], untrained[1::2], strict=True)
    )
    assert all(row["untrained"] == pytest.approx(row["best"], abs=0.01) for rows in found.values() for row in rows)


def test_streaming_holds_no_image_by_channel_matrix(tmp_path):
    """Anonymous memory grows by far less than N x M: 12,000 x 1,500 would be 72 MB in float32."""
    import resource
    import subprocess
    import sys

    code = f"""
import numpy as np, pathlib, re
from hierarchy_cnn_torch.method import selectivity
from hierarchy_cnn_torch.report import response_file
def anon():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
def batches():
    rng = np.random.default_rng(0)
    for start in range(0, 12000, 500):
        yield {{"a": rng.random((500, 1500), np.float32)}}, np.arange(500) % 10, np.arange(start, start + 500)
before, peak = anon(), 0
def watched():
    global peak
    for batch in batches():
        yield batch
        peak = max(peak, anon())
response_file.stream(watched(), 12000, 10, pathlib.Path({str(tmp_path)!r}))
data, _ = response_file.open_responses(pathlib.Path({str(tmp_path)!r}) / "a")
selectivity.sample_selectivity(data, np.arange(12000) % 10 < 3)
print(max(peak, anon()) - before)
"""
    assert resource
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 48_000  # kB
