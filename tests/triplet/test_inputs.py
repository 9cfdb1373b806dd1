"""Augmentation against slow definitions, and the pipelines: order, labels, repeatability, whole lists."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datasets.lists import ImageLists, Rows
from reproduction.runtime.tf import tf, tf1
from tests.fuzz import seeds
from triplet_tf.config.base_config import Config, parse, training_parser
from triplet_tf.data_sampling import augment, loader
from triplet_tf.data_sampling.image_lists import open_lists


def slow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """TF1's bilinear: source = target * (in / out), no half-pixel centres, edge repeated."""
    out = np.zeros((height, width, 3))
    rows, columns = image.shape[:2]
    for y in range(height):
        for x in range(width):
            sy, sx = y * rows / height, x * columns / width
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = image[y0, x0] * (1 - (sx - x0)) + image[y0, x1] * (sx - x0)
            bottom = image[y1, x0] * (1 - (sx - x0)) + image[y1, x1] * (sx - x0)
            out[y, x] = top * (1 - (sy - y0)) + bottom * (sy - y0)
    return out


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 19, 3), np.uint8)


@pytest.fixture
def run(tf1_graph):
    """run(tensor, feed) -> NumPy."""
    with tf1.Session() as session:
        yield lambda tensors, feed=None: session.run(tensors, feed)


def test_resize_is_that_of_tf1(run, image):
    np.testing.assert_allclose(run(augment.resize(tf.constant(image), 21, 9)), slow_resize(image, 21, 9), atol=2e-3)


def released_shape(height: int, width: int, side: int) -> list[int]:
    """The release's truncation, in float32."""
    scale = np.float32(side) / np.float32(min(height, width))
    return [int(np.float32(height) * scale), int(np.float32(width) * scale)]


def test_resized_shapes_are_the_released_ones_over_many_sizes(run):
    shape, side = tf1.placeholder(tf.int32, [2]), tf1.placeholder(tf.int32, [])
    resized = augment.resized_shape(shape, side, 224)
    lengths = [*range(300, 1100, 20), 348, 682, 1024, 4032]
    differ = 0
    for height in lengths:
        for width in lengths:
            shown = run(resized, {shape: [height, width], side: 350})
            assert shown.tolist() == released_shape(height, width, 350), (height, width)
            exact = [max(350, round(length * 350 / min(height, width))) for length in (height, width)]
            differ += shown.tolist() != exact
    assert differ > len(lengths) ** 2 / 3  # rounding differs by a pixel for a third and more
    assert run(resized, {shape: [682, 1024], side: 350}).tolist() == [350, 525]  # 525.51
    assert run(resized, {shape: [348, 520], side: 350}).tolist() == [349, 522]
    for drawn in range(350, 513):
        assert run(resized, {shape: [500, 375], side: drawn}).tolist() == released_shape(500, 375, drawn)


def test_a_crop_as_large_as_the_shorter_side_fits(run):
    shown = run(tf.shape(augment.shorter_side_to(tf.zeros((348, 520, 3), tf.uint8), 350, 350)))
    assert shown.tolist() == [350, 522, 3]


def test_the_test_crop_is_that_of_the_released_shape(run):
    photograph = np.random.default_rng(2).integers(0, 256, (682, 1024, 3), np.uint8)
    expected = augment.resize(tf.constant(photograph), 350, 525)[63:287, 150:374] - tf.constant(augment.VGG_MEAN)
    shown, wanted = run([augment.test_image(tf.constant(photograph), 224, 350, "vgg"), expected])
    np.testing.assert_array_equal(shown, wanted)


def test_preprocessing(run):
    pixels = np.array([[0.0, 127.5, 255.0], [255.0, 0.0, 51.0]], np.float32)
    shown = {kind: run(augment.preprocess(tf.constant(pixels), kind)) for kind in ("inception_v1", "vgg", "densenet")}
    np.testing.assert_allclose(shown["inception_v1"], pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(shown["vgg"], pixels - np.array([123.68, 116.78, 103.94]), atol=1e-4)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(shown["densenet"], expected, atol=1e-5)


def test_train_image_is_the_crop_that_the_draws_name(run, image):
    draw = tf1.placeholder(tf.float32, [4])
    made = augment.train_image(tf.constant(image), draw, 8, (10, 12), True, "vgg")
    plain = augment.train_image(tf.constant(image), draw, 8, (10, 12), False, "vgg")
    for values in ([0.0, 0.0, 0.0, 0.9], [0.999, 0.999, 0.999, 0.9], [0.5, 0.4, 0.7, 0.1]):
        side = 10 + int(values[0] * 3)
        width = released_shape(13, 19, side)[1]
        resized = slow_resize(image, side, width) - np.array(augment.VGG_MEAN)
        top, left = int(values[1] * (side - 8 + 1)), int(values[2] * (width - 8 + 1))
        crop = resized[top : top + 8, left : left + 8]
        np.testing.assert_allclose(run(plain, {draw: values}), crop, atol=2e-3)
        np.testing.assert_allclose(run(made, {draw: values}), crop[:, ::-1] if values[3] < 0.5 else crop, atol=2e-3)


def test_whole_numbers_reach_both_ends_and_never_beyond(run):
    top = np.nextafter(np.float32(1), np.float32(0)) - np.float32(2**-23)  # the largest draw is 1 - 2^-23
    counts = np.array([1, 2, 33, 163, 289, 4097, 65535], np.int32)
    assert (run(augment._whole(tf.constant(top), tf.constant(counts))) == counts - 1).all()
    assert (run(augment._whole(tf.constant(0.0), tf.constant(counts))) == 0).all()


def test_central_crop_truncates_its_offset(run, image):
    shown = run(augment.test_image(tf.constant(image), 8, 13, "vgg"))  # 13 x 19 stays: offsets 2 and 5
    np.testing.assert_allclose(shown, image[2:10, 5:13] - np.array(augment.VGG_MEAN), atol=1e-3)


def test_style_batch_has_one_crop_for_all_and_an_exact_mirror(run):
    images = np.random.default_rng(1).integers(0, 256, (3, 256, 256, 3)).astype(np.float32)
    mirror = np.array([True, False, True])
    draw = tf1.placeholder(tf.float32, [4])
    made = augment.train_batch(tf.constant(images), draw, tf.constant(mirror), "vgg")
    for top, left in ((0, 32), (32, 0), (5, 17)):
        shown = run(made, {draw: [0, (top + 0.5) / 33, (left + 0.5) / 33, 0]})
        crop = images[:, top : top + 224, left : left + 224] - np.array(augment.VGG_MEAN)
        np.testing.assert_allclose(shown, np.where(mirror[:, None, None, None], crop[:, :, ::-1], crop), atol=1e-3)
    centre = images[:, 16:240, 16:240] - np.array(augment.VGG_MEAN)
    np.testing.assert_allclose(run(augment.test_batch(tf.constant(images), "vgg")), centre, atol=1e-3)


def test_draws_depend_on_seed_and_number_alone(run):
    number = tf1.placeholder(tf.int64, [])
    tensors = [augment.draws(0, number), augment.draws(1, number)]
    first = [run(tensors, {number: n}) for n in (0, 1, 2**40, -1)]
    again = [run(tensors, {number: n}) for n in (0, 1, 2**40, -1)]
    np.testing.assert_array_equal(first, again)
    flat = np.array(first).reshape(-1)
    assert len(np.unique(flat)) == len(flat) and flat.min() >= 0 and flat.max() < 1


# ---- pipelines ------------------------------------------------------------------------------------------------------


def config_of(root, *flags: str) -> Config:
    words = ["--db_name", "csv:tiny", "--datasets_dir", str(root), "--net", "mobile", "--batch_size", "8", *flags]
    return parse(training_parser(), words)


IMG = ("--aug_style", "img", "--frame_size", "16", "--resize_sides", "18,22")


def batches_of(config: Config, first: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with tf1.Graph().as_default(), tf1.Session() as session:
        batches = loader.TrainBatches(config, open_lists(config))
        batches.start(session, first)
        return [session.run([batches.images, batches.labels]) for _ in range(count)]


@pytest.mark.parametrize("flags", [(*IMG, "--train_mode", "hard"), ("--train_mode", "vanilla")])
def test_training_batches_start_anywhere_and_repeat(tiny, flags):
    config = config_of(tiny, *flags)
    whole = batches_of(config, 0, 4)
    later = batches_of(config, 2, 2)
    for a, b in zip(whole[2:], later, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(whole[0][0], whole[1][0])
    side = 16 if "img" in flags else 224
    assert all(images.shape == (8, side, side, 3) and images.dtype == np.float32 for images, _ in whole)


def test_labels_are_those_of_the_planned_files(tiny):
    config = config_of(tiny, *IMG, "--train_mode", "semi_hard")
    lists = open_lists(config)
    plan = loader.batch_plan(config, lists.train.labels)
    for number, (images, labels) in enumerate(batches_of(config, 0, 3)):
        np.testing.assert_array_equal(labels, lists.train.labels[plan(number)])
        brightest = images.mean(axis=(1, 2)).argmax(axis=1)
        assert (brightest == labels % 3).all()  # a class is its colour (written so by the test)


@pytest.mark.parametrize("style", [IMG, ()])
def test_test_list_is_complete_and_in_order(tiny, style):
    config = config_of(tiny, *style)
    lists = open_lists(config)
    with tf1.Graph().as_default(), tf1.Session() as session:
        batches = loader.TestBatches(config, lists)
        for _ in range(2):
            batches.start(session)
            parts = [session.run([batches.images, batches.labels]) for _ in range(2)]
            assert [len(labels) for _, labels in parts] == [8, 7]  # the remainder is not dropped
            np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), lists.test.labels)
            with pytest.raises(tf.errors.OutOfRangeError):
                session.run(batches.images)


def test_png_and_grey_files_are_read(tmp_path):
    names = ("grey.png", "colour.png", "deep.jpg")
    Image.fromarray(np.full((20, 24), 51, np.uint8)).save(tmp_path / names[0])
    Image.fromarray(np.full((24, 20, 3), 102, np.uint8)).save(tmp_path / names[1])
    Image.fromarray(np.full((30, 30), 204, np.uint8)).save(tmp_path / names[2], quality=100)
    rows = Rows(np.array([0, 1, 0]), names)
    config = config_of(tmp_path, *IMG)
    with tf1.Graph().as_default(), tf1.Session() as session:
        batches = loader.TestBatches(config, ImageLists("x", tmp_path, rows, rows, ("a", "b")))
        batches.start(session)
        images = session.run(batches.images)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), np.array([0.2, 0.4, 0.8]) * 2 - 1, atol=0.01)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_stored_rotated_are_turned_upright(run, tmp_path, kind):
    path = tf1.placeholder(tf.string, [])
    decoded = loader.decode(path)
    assert decoded.shape.as_list() == [None, None, 3]
    for number in range(1, 9):
        (tmp_path / f"{number}").write_bytes(seeds.rotated(number, kind))
    found = [run(decoded, {path: str(tmp_path / f"{number}")}) for number in range(1, 9)]
    for image in found:
        np.testing.assert_array_equal(image, found[0])


def test_batches_hold_upright_pictures(tmp_path):
    for number in (1, 6):
        (tmp_path / f"{number}.jpg").write_bytes(seeds.rotated(number))
    rows = Rows(np.array([0, 1]), ("1.jpg", "6.jpg"))
    config = config_of(tmp_path, *IMG)
    with tf1.Graph().as_default(), tf1.Session() as session:
        batches = loader.TestBatches(config, ImageLists("x", tmp_path, rows, rows, ("a", "b")))
        batches.start(session)
        images = session.run(batches.images)
    np.testing.assert_array_equal(images[0], images[1])


def test_the_unreadable_file_is_found(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.jpg")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    noise.save(tmp_path / "film.jpg", "GIF", save_all=True, append_images=[noise.rotate(90)])
    noise.save(tmp_path / "tiff.png", "TIFF")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    error = ValueError("first line\nsecond")
    for name in ("cut.jpg", "film.jpg", "tiff.png", "text.jpg", "empty.jpg", "folder.jpg", "absent.jpg"):
        found = str(loader.explained(error, [str(tmp_path / "good.jpg"), str(tmp_path / name)]))
        assert f"{name}: not a readable JPEG or PNG image (" in found and "\n" not in found
        assert "Graph execution" not in found and "File " not in found
    assert "Invalid JPEG data" in str(loader.explained(error, [str(tmp_path / "cut.jpg")]))
    assert loader.explained(error, [str(tmp_path / "good.jpg")]) is error
    full = tf.errors.ResourceExhaustedError(
        None, None, "Graph execution error:\n\nOOM when allocating\n\t [[{{node x}}]]"
    )
    assert str(loader.explained(full, [])) == "out of memory (OOM when allocating); choose a smaller --batch_size"
    full = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor by allocator GPU_0_bfc")
    assert loader.explained(full, [str(tmp_path / "cut.jpg")]) is full  # at once: no list of images is read for it
