"""ImageNet on a folder of tiny images and random weights: the network, the squash, the features that survive a kill."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from class2str_tf import deviations
from class2str_tf.data import imagenet
from class2str_tf.flags import fc_parser, parse_fc, parse_rnn, rnn_parser
from class2str_tf.method import model
from class2str_tf.method.layers import count_parameters
from class2str_tf.networks import vgg16_imagenet
from class2str_tf.training import imagenet_features as pool5
from class2str_tf.training import imagenet_stage1
from datasets import DatasetError
from reproduction.runtime import tf_runtime
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import tf, tf1
from tests.fuzz import seeds

SIZE, WIDTH, CLASSES, BATCH = 32, 2, ("n01", "n02", "n03"), 2
FEATURES = 8 * WIDTH  # a 32x32 image leaves 1x1 after five pools


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """data/imagenet/{train,val}/CLASS/*.png|jpg of several proportions, data/weights/vgg16_weights.npz."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in CLASSES:
            folder = root / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + 17 * i, 45, 3), np.uint8)
                image = Image.fromarray(pixels).convert("L" if i == 1 else "RGB")  # a grey one in every class
                image.save(folder / (f"{i}.JPEG" if i == 2 else f"{i}.png"))
    (root / "weights").mkdir()
    np.savez(root / "weights" / vgg16_imagenet.WEIGHTS, **random_weights(rng))
    return root


def random_weights(rng, features=FEATURES):
    arrays, before = {}, 3
    for block, count in enumerate(vgg16_imagenet.CONVOLUTIONS, 1):
        for index in range(1, count + 1):
            width = WIDTH * min(2 ** (block - 1), 8)
            arrays[f"conv{block}_{index}_W"] = rng.normal(0, 0.3, (3, 3, before, width)).astype(np.float32)
            arrays[f"conv{block}_{index}_b"] = rng.normal(0, 0.5, width).astype(np.float32)
            before = width
    for name, rows, columns in (("fc6", features, 64 * WIDTH), ("fc7", 64 * WIDTH, 64 * WIDTH), ("fc8", 64 * WIDTH, 3)):
        arrays[f"{name}_W"] = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        arrays[f"{name}_b"] = rng.normal(0, 0.2, columns).astype(np.float32)
    return arrays


def flags(data_dir, runs_dir):
    words = ["--data-dir", str(data_dir), "--runs-dir", str(runs_dir), "--name", "vgg", "--device", "cpu"]
    words += ["--B", str(BATCH), "--F", str(WIDTH), "--accept-unverified"]
    return parse_fc(fc_parser("train_fc_classifer_imagenet.py", "imagenet", original_flags=False), words)


@pytest.fixture
def config(data_dir, tmp_path):
    return flags(data_dir, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """Flags of a run that nothing disturbed."""
    config = flags(data_dir, tmp_path_factory.mktemp("runs"))
    imagenet_stage1.run_fc(config, SIZE)
    return config


def slow_image(path):
    """Nearest-neighbour squash by the floor of the scaled index, one pixel at a time."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    result = np.empty((SIZE, SIZE, 3), np.uint8)
    for i in range(SIZE):
        for j in range(SIZE):
            result[i, j] = pixels[int(i * height / SIZE), int(j * width / SIZE)]
    return result


def slow_network(image, arrays):
    """Features and logits of one image in float64 NumPy."""
    x = image.astype(np.float64) - np.array(vgg16_imagenet.MEAN)
    for block, count in enumerate(vgg16_imagenet.CONVOLUTIONS, 1):
        for index in range(1, count + 1):
            kernel, bias = (arrays[f"conv{block}_{index}_{kind}"].astype(np.float64) for kind in "Wb")
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            total = np.zeros((*x.shape[:2], kernel.shape[3]))
            for i in range(3):
                for j in range(3):
                    total += padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[i, j]
            x = np.maximum(total + bias, 0)
        x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
    found = x.reshape(-1)
    hidden = found
    for name in ("fc6", "fc7"):
        hidden = np.maximum(hidden @ arrays[f"{name}_W"] + arrays[f"{name}_b"], 0)
    return found, hidden @ arrays["fc8_W"] + arrays["fc8_b"]


def test_sizes_of_the_paper(graph):
    images = tf1.placeholder(tf.uint8, [None, 224, 224, 3])
    outputs, logits = vgg16_imagenet.network(images, 1000, 64)
    assert outputs.shape.as_list() == [None, 25_088] and outputs.name == "cnn/features:0"
    assert logits.shape.as_list() == [None, 1000] and logits.name == "classifier/logits:0"
    assert count_parameters("classifier") == 123_642_856
    assert count_parameters("classifier", weights_only=True) == 123_633_664
    assert count_parameters("cnn") == 14_714_688  # VGG16 without BN: 138,357,544 in all
    model.lh_classifier(tf1.placeholder(tf.float32, [None, 25_088]), 11, (2000, 2000))
    assert count_parameters("lh") == 248_764_022
    names = {v.op.name for v in tf1.trainable_variables("cnn/")}
    assert {"cnn/conv1_1/weights", "cnn/conv5_3/biases"} <= names and len(names) == 26


def test_the_budget_preset_gives_the_posters_parameters(graph):
    model.lh_classifier(tf1.placeholder(tf.float32, [None, 25_088]), 10, (668, 668))
    assert count_parameters("lh") == pytest.approx(72.41e6, rel=1e-3)


def test_features_and_fc_accuracy_equal_the_slow_network(undisturbed, data_dir, capsys):
    config, folder = undisturbed, undisturbed.folder
    data = imagenet.load(config, SIZE)
    train, test, logits = imagenet_features(folder, data)
    assert data.class_names == CLASSES and train.shape == (9, FEATURES) and isinstance(train, np.memmap)
    with np.load(data_dir / "weights" / vgg16_imagenet.WEIGHTS) as file:
        arrays = dict(file)
    right = 0
    for i, path in enumerate(data.test_images.paths):
        features, scores = slow_network(slow_image(path), arrays)
        np.testing.assert_allclose(test[i], features, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(logits[i], scores, rtol=1e-4, atol=1e-2)
        right += int(scores.argmax() == data.test_labels[i])
    png = next(i for i, path in enumerate(data.train_images.paths) if path.suffix == ".png")
    np.testing.assert_allclose(train[png], slow_network(slow_image(data.train_images.paths[png]), arrays)[0], rtol=1e-4)
    record = json.loads((folder / "record.json").read_text())
    ids = ["C2S-D08", "C2S-D16", "C2S-D17", "C2S-D22", "C2S-D25", "C2S-D29"]
    assert record["deviations"] == deviations.active(config) == ids
    assert deviations.active(replace(config, xla=True)) == [*ids, "C2S-D32"]
    assert record["metrics"]["fc_accuracy"]["last"] == right / 6 and record["stage"] == "fc"
    assert not record["data_verified"] and set(record["data"]) == {*data.digests, vgg16_imagenet.WEIGHTS}
    imagenet_stage1.run_fc(config, SIZE)  # nothing left to do
    assert "finished before" in capsys.readouterr().out


def test_pictures_stored_rotated_are_turned_before_the_squash(tmp_path):
    paths = [tmp_path / f"{number}.JPEG" for number in range(1, 9)]
    for number, path in enumerate(paths, 1):
        path.write_bytes(seeds.rotated(number))
    found = imagenet.ImageFiles(paths, SIZE)[0:8]
    np.testing.assert_array_equal(found, found[:1].repeat(8, 0))


def imagenet_features(folder, data):
    return pool5.open_features(folder, data, "class2str_tf/train_fc_classifer_imagenet.py")


class Killed(BaseException):
    """Stands for a kill: nothing in the code catches it."""


@pytest.mark.parametrize("blocks", [2, 6])
def test_a_killed_pass_goes_on_and_ends_with_the_same_files(undisturbed, config, monkeypatch, blocks):
    monkeypatch.setattr(pool5, "BLOCK_BATCHES", 1)
    real, seen = pool5.write_json, []

    def die(path, value):
        if len(seen) == blocks:
            raise Killed
        seen.append(value)
        real(path, value)

    monkeypatch.setattr(pool5, "write_json", die)
    with pytest.raises(Killed):
        imagenet_stage1.run_fc(config, SIZE)
    folder = Path(config.runs_dir)
    assert not (folder / "vgg" / "features-test.npy").exists()
    with pytest.raises(UserError, match="run first"):
        imagenet_features(folder / "vgg", imagenet.load(config, SIZE))

    monkeypatch.setattr(pool5, "write_json", lambda path, value: (seen.append(value), real(path, value)))
    imagenet_stage1.run_fc(config, SIZE)
    assert len(seen) == 5 + 3  # 9 and 6 images, two by two: no block that was done is done again
    for name in ("features-train", "features-test", "fc-logits-test"):
        files = [(Path(root) / "vgg" / f"{name}.npy").read_bytes() for root in (undisturbed.runs_dir, folder)]
        assert files[0] == files[1]
    record = json.loads((folder / "vgg" / "record.json").read_text())
    read = {2: 11, 6: 4}[blocks]  # images of the second process, as its seconds are
    assert record["images_per_s"] * record["seconds"] == pytest.approx(read, rel=0.1)


def test_killed_between_the_last_block_and_the_renaming(config, monkeypatch):
    rename = Path.rename

    def die(self, target):
        if self.name == "fc-logits-test.partial":
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(Killed):
        imagenet_stage1.run_fc(config, SIZE)
    monkeypatch.undo()
    monkeypatch.setattr(imagenet.Stream, "start", lambda *_: pytest.fail("a finished split is read again"))
    imagenet_stage1.run_fc(config, SIZE)
    assert not list((config.folder).glob("*.partial"))


def test_features_of_other_weights_are_not_kept(undisturbed, config, tmp_path):
    folder = tmp_path / "vgg"
    shutil.copytree(undisturbed.folder, folder)
    (folder / "DONE").unlink()
    (folder / "config.json").unlink()
    before = (folder / "features-train.npy").read_bytes()
    other = tmp_path / "other.npz"
    np.savez(other, **random_weights(np.random.default_rng(1)))
    imagenet_stage1.run_fc(config, SIZE, other)
    assert (folder / "features-train.npy").read_bytes() != before


def test_images_on_disk_look_like_an_array(config):
    images = imagenet.load(config, SIZE).test_images
    assert images.shape == (6, SIZE, SIZE, 3) and len(images) == 6 and images.dtype == np.uint8
    assert images[4:9].shape == (2, SIZE, SIZE, 3) and images[6:].shape == (0, SIZE, SIZE, 3)
    assert images[1:2].tolist() == [slow_image(images.paths[1]).tolist()]


def test_a_damaged_image_is_named(config, data_dir, tmp_path):
    bad = tmp_path / "data"
    for split in ("train", "val"):
        (bad / "imagenet" / split / "n01").mkdir(parents=True)
        good = (data_dir / "imagenet" / split / "n01" / "0.png").read_bytes()
        (bad / "imagenet" / split / "n01" / "0.png").write_bytes(good)
        (bad / "imagenet" / split / "n01" / "1.png").write_bytes(good[:100])
    images = imagenet.load(replace(config, data_dir=str(bad)), SIZE).train_images
    assert len(images[:1]) == 1
    with pytest.raises(UserError, match="1.png: not a readable image"):
        images[:2]
    (bad / "weights").symlink_to(data_dir / "weights")
    with pytest.raises(UserError):  # one class in the images, three in the weights
        imagenet_stage1.run_fc(replace(config, data_dir=str(bad)), SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("conv3_2_b"), "holds no array conv3_2_b"),
        (lambda arrays: arrays.update(fc8_W=np.zeros((64 * WIDTH, 5), np.float32)), "fc8_W is float32"),
        (lambda arrays: arrays.update(conv1_1_W=arrays["conv1_1_W"] * np.nan), "expected finite floats"),
        (lambda arrays: arrays.update(conv1_1_b=np.array([{}] * WIDTH)), "damaged"),
    ],
)
def test_weights_that_do_not_fit_are_named(config, tmp_path, change, message):
    arrays = random_weights(np.random.default_rng(0))
    change(arrays)
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    with pytest.raises((UserError, DatasetError), match=message):
        imagenet_stage1.run_fc(config, SIZE, path)


ARRAYS = {"conv1_1_W": np.ones((3, 3, 3, 2), np.float32), "conv1_1_b": np.ones(2, np.float32)}


def packed(**change):
    """The bytes of an npz with the weights of one convolution, some of them changed."""
    out = io.BytesIO()
    np.savez(out, **(ARRAYS | change))
    return out.getvalue()


@pytest.fixture
def one_layer(graph):
    """A session on a network of one convolution."""
    with tf1.variable_scope("cnn/conv1_1"):
        tf1.get_variable("weights", shape=ARRAYS["conv1_1_W"].shape)
        tf1.get_variable("biases", shape=ARRAYS["conv1_1_b"].shape)
    with tf_runtime.session() as session:
        yield session


def test_weights_of_any_precision_are_assigned_and_other_arrays_left(one_layer, tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(packed(conv1_1_b=np.full(2, 0.5), other=np.zeros(3)))
    vgg16_imagenet.assign_weights(one_layer, path)
    kernel, bias = one_layer.run(tf1.trainable_variables())
    assert (kernel == 1).all() and bias.tolist() == [0.5, 0.5]


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_hostile_weights_run_nothing(one_layer, tmp_path, monkeypatch):
    mark, path = tmp_path / "ran", tmp_path / "w.npz"
    pickled = np.empty(1, object)
    pickled[0] = Touch(mark)
    bomb, lacking = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as z, z.open("conv1_1_W.npy", "w", force_zip64=True) as f:
        f.write(bytes(1 << 21))
    np.savez(lacking, conv1_1_b=ARRAYS["conv1_1_b"])
    monkeypatch.setattr(vgg16_imagenet, "MOST_BYTES", 1 << 20)
    bodies = [
        (packed(conv1_1_W=pickled), "damaged"),
        (packed(conv1_1_W=np.ones((3, 3, 3, 3), np.float32)), "expected finite floats"),
        (packed(conv1_1_b=np.full(2, np.nan, np.float32)), "expected finite floats"),
        (packed(conv1_1_b=np.ones(2, np.int64)), "expected finite floats"),
        (packed()[:-40], "damaged"),
        (b"", "damaged"),
        (pickle.dumps(Touch(mark)), "damaged"),
        (bomb.getvalue(), "a bomb"),
        (lacking.getvalue(), "no array conv1_1_W"),
    ]
    for body, message in bodies:
        path.write_bytes(body)
        with pytest.raises((UserError, DatasetError), match=f"w.npz: .*{message}"):
            vgg16_imagenet.assign_weights(one_layer, path)
    assert not mark.exists()


def test_too_small_a_disk_is_said_before_the_pass(config, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pool5.shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(UserError, match="GB are free; choose --runs-dir"):
        imagenet_stage1.run_fc(config, SIZE)


def test_what_is_missing_is_named(config, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        imagenet.load(replace(config, data_dir=str(tmp_path)), SIZE)
    for flags in (["--finetune", "all"], ["--augment"]):
        stage2 = parse_rnn(rnn_parser("s", "imagenet", "vgg16", flavour="imagenet"), flags)
        with pytest.raises(UserError, match="C2S-D02"):
            imagenet.load(stage2, SIZE)
    with pytest.raises(UserError, match="^--model: not for imagenet, whose images and network are fixed$"):
        imagenet.load(replace(config, model="lenet"), SIZE)  # the network would be VGG16, and the record say lenet
    with pytest.raises(UserError, match="run first: python class2str_tf/train_fc_classifer_imagenet.py"):
        imagenet_features(tmp_path, imagenet.load(config, SIZE))


@pytest.mark.parametrize("claimed", [(3, 2), (3, 9), (10**12, 2)])
def test_a_damaged_half_of_the_features_is_made_anew_and_not_stretched(tmp_path, claimed):
    maker = {"weights": "1"}
    tables, done = pool5._open_partial(tmp_path, "train", maker, 3, [2])
    assert done == 0
    tables[0][:] = 7
    tables[0].flush()
    path = tmp_path / "features-train.partial"
    whole = path.read_bytes()
    (tmp_path / "train.progress").write_text(json.dumps({"maker": maker, "done": 2}))
    text = whole[10:128].decode().replace("(3, 2)", str(claimed)).rstrip()
    path.write_bytes(whole[:10] + text.ljust(117).encode() + b"\n" + whole[128:])
    [table], done = pool5._open_partial(tmp_path, "train", maker, 3, [2])
    assert table.shape == (3, 2) and path.stat().st_size == len(whole)
    assert done == (2 if claimed == (3, 2) else 0) and bool((table == 7).all()) == (claimed == (3, 2))


def test_an_image_is_classified_as_it_was_trained_on(tmp_path):
    from class2str_tf.predict import read_image

    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with tf1.Graph().as_default(), tf1.Session() as session:
        trained_on = session.run(imagenet.decode(tf.constant(str(tmp_path / "a.png")), 13))
    assert np.array_equal(read_image(tmp_path / "a.png", (13, 13, 3), squash=True)[0], trained_on)
    cropped = read_image(tmp_path / "a.png", (30, 30, 3))
    assert cropped.shape == (1, 30, 30, 3) and not np.array_equal(cropped[0], trained_on[:30, :30])
