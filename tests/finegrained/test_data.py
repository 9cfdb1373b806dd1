"""Groupings, images at the network's size, normalization, PathMNIST from self-written files."""

import hashlib
import io

import numpy as np
import pytest
import torch

import datasets
from datasets import core, manifest, pathmnist
from finegrained_torch import flags
from finegrained_torch.data import images as data
from finegrained_torch.training import setting
from reproduction.runtime.run_folder import UserError


def config(capsys, *argv):
    return flags.parse_pipeline(list(argv))


def load(config):
    return setting.Setting(config).data


def made(name, classes, channels=3, size=32, coarse=None):
    labels = np.arange(3 * classes) % classes
    images = np.random.default_rng(0).integers(0, 256, (3 * classes, size, size, channels)).astype(np.uint8)
    names = tuple(f"class {c}" for c in range(classes))
    extra = {} if coarse is None else {"coarse_labels": coarse, "coarse_names": ("a", "b")}
    return core.Dataset(name, images, labels, images[:classes], labels[:classes], names, **extra)


def test_cifar10_groups_are_vehicles_and_animals(monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda *a, **k: made("cifar10", 10))
    found = load(config(capsys))
    assert found.coarse_names == ("vehicles", "animals")
    assert (found.num_coarse_labels, found.num_sub_labels) == (2, 10)
    groups = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    assert found.train.coarse.tolist() == groups[found.train.fine].tolist()
    assert found.mean == (0.4914, 0.4822, 0.4465) and found.std == (0.2023, 0.1994, 0.2010)


def test_cifar100_groups_are_those_of_the_file(monkeypatch, capsys):
    coarse = np.array([0, 1, 1, 0])
    monkeypatch.setattr(datasets, "load", lambda *a, **k: made("cifar100", 4, coarse=coarse))
    found = load(config(capsys, "--dataset", "cifar100"))
    assert found.train.coarse.tolist() == coarse[found.train.fine].tolist() and found.coarse_names == ("a", "b")
    assert found.mean == (0.4914, 0.4822, 0.4465)


def test_digits_are_padded_and_grey_in_three_channels(capsys):
    found = load(config(capsys, "--dataset", "mnist5k", "--limit_train", "100"))
    assert found.train.images.shape == (100, 32, 32, 3) and found.test.images.shape == (1000, 32, 32, 3)
    assert (found.train.images[..., 0] == found.train.images[..., 2]).all()
    assert not found.train.images[:, :2].any() and found.train.images.any()
    assert ((found.train.fine >= 5) == found.train.coarse).all() and np.bincount(found.train.fine).tolist() == [10] * 10
    again = load(config(capsys, "--dataset", "mnist5k", "--limit_train", "100", "--seed", "7"))
    assert np.array_equal(found.train.images, again.train.images)  # the part belongs to the data set, not to the seed
    assert data.content_hash(found) == data.content_hash(again)
    other = load(config(capsys, "--dataset", "mnist5k", "--limit_train", "110"))
    assert data.content_hash(found) != data.content_hash(other)


def test_a_set_without_known_subclasses_has_no_upper_bound(monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda *a, **k: made("mine", 3))
    found = load(config(capsys, "--dataset", "folder:some/mine"))
    assert found.name == "mine" and (found.train.fine == -1).all() and found.num_sub_labels == 0
    assert all(0.4 < m < 0.6 for m in found.mean) and all(0.2 < s < 0.4 for s in found.std)
    base = setting.Setting(flags.parse_main(["--dataset", "folder:some/mine"]))  # learns coarse labels alone
    assert base.data.num_coarse_labels == 3
    with pytest.raises(UserError, match="no subclasses of mine are known; learn pseudo-labels"):
        base.sub_labels()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_is_to_tensor_and_normalize(dtype):
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v, dtype=dtype) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    expected = (images.to(dtype) / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(data.normalize(images, mean, std), expected)


def test_planes_and_items():
    split = data.Split(
        np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.array([0, 1]), np.array([-1, 2])
    )
    items = data.Items.of(split)
    images, fine, coarse = items[torch.tensor([1])]
    assert torch.equal(images[0, 2], torch.from_numpy(split.images[1, :, :, 2]))
    assert fine.tolist() == [2] and coarse.tolist() == [1] and len(items) == 2


@pytest.mark.parametrize(("name", "word"), [("cifar10", "cifar10"), ("folder:/a/b c/", "b_c"), ("folder:x", "x")])
def test_short_names(name, word):
    assert data.short_name(name) == word


# --- PathMNIST: files in medmnist's format, written here ------------------------------------------------------------


def npz(**change):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 27), ("val", 9), ("test", 18)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28, 3)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 9).astype(np.uint8)[:, None]
    arrays.update(change)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue(), arrays


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """Places a file as pathmnist.npz; accepted, since its digest is not the published one."""
    monkeypatch.setenv("DATASETS_OFFLINE", "1")
    monkeypatch.setattr(pathmnist.Path, "home", lambda: tmp_path / "nobody")

    def place(body):
        (tmp_path / "pathmnist").mkdir(exist_ok=True)
        (tmp_path / "pathmnist" / "pathmnist.npz").write_bytes(body)
        return tmp_path

    return place


def test_pathmnist_from_a_file_in_medmnists_format(placed, capsys):
    body, arrays = npz()
    root = placed(body)
    ds = datasets.load("pathmnist", root, accept_unverified=True)
    assert not ds.verified and ds.digests["pathmnist.npz"] == hashlib.sha256(body).hexdigest()
    assert np.array_equal(ds.train_images, arrays["train_images"]) and ds.train_labels.dtype == np.int64
    assert ds.test_labels.tolist() == arrays["test_labels"][:, 0].tolist() and ds.class_names[7].endswith("stroma")
    images, labels = pathmnist.validation(root, True)
    assert np.array_equal(images, arrays["val_images"]) and labels.shape == (9,)
    with pytest.raises(datasets.DatasetError, match="bytes, expected 205,615,438"):
        datasets.load("pathmnist", root)
    capsys.readouterr()
    found = load(config(capsys, "--dataset", "pathmnist", "--data_dir", str(root), "--accept-unverified"))
    assert len(found.validation.coarse) == 9 and found.num_coarse_labels == 9 and found.num_sub_labels == 0
    assert found.mean == found.std == (0.5, 0.5, 0.5) and found.train.images.shape == (27, 28, 28, 3)


def test_the_digest_is_the_one_in_medmnist_3_0_2():
    """INFO["pathmnist"]["MD5"] of that release; the size from a log of its own downloader."""
    entry = manifest.entry("pathmnist")
    (file,) = entry.files
    assert str(file.digest) == "md5 a8b06965200029087d5bd730944a56c1" and file.bytes == 205_615_438
    assert (entry.train, entry.test, entry.classes) == (89996, 7180, len(pathmnist.CLASSES))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_images": None}, "holds no train_images"),
        ({"train_images": np.zeros((27, 28, 28), np.uint8)}, "train images are uint8"),
        ({"train_images": np.zeros((27, 28, 28, 3), np.float32)}, "train images are float32"),
        ({"test_labels": np.full((18, 1), 9, np.uint8)}, "label 9 at position 0 is not in 0..8"),
        ({"test_labels": np.zeros((17, 1), np.uint8)}, "test labels are uint8"),
        ({"train_labels": np.array([[None]] * 27, object)}, "damaged or not what it should be"),
    ],
)
def test_pathmnist_damaged_files(placed, change, said):
    with pytest.raises(datasets.DatasetError, match=said):
        datasets.load("pathmnist", placed(npz(**change)[0]), accept_unverified=True)


@pytest.mark.parametrize("body", [b"", b"no zip", npz()[0][:2000]])
def test_pathmnist_no_npz(placed, body):
    with pytest.raises(datasets.DatasetError, match="pathmnist.npz"):
        datasets.load("pathmnist", placed(body), accept_unverified=True)


def test_pathmnist_bomb(placed, monkeypatch):
    monkeypatch.setattr(pathmnist, "MOST_BYTES", 1000)
    with pytest.raises(datasets.DatasetError, match="unpacks to more than 1,000 bytes"):
        datasets.load("pathmnist", placed(npz()[0]), accept_unverified=True)


def test_mean_and_deviation_are_those_of_a_sample_of_all_images():
    images = np.zeros((20_000, 1, 1, 3), np.uint8)
    images[10_000:] = 255  # a folder's images are sorted by class
    assert data._constants(images) == ((0.5,) * 3, (0.5,) * 3)
