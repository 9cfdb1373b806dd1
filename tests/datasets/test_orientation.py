"""Pictures stored rotated, with an EXIF block that says so, are turned by every reader that uses Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets import folder
from datasets.orientation import orientation, turn
from tests.fuzz import seeds

ROTATED = range(2, 9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("number", ROTATED)
def test_a_picture_and_its_rotated_twin_give_the_same_array(kind, number):
    assert orientation(seeds.rotated(number, kind)) == number
    upright = folder.decode(seeds.rotated(1, kind), 24, "x")
    np.testing.assert_array_equal(folder.decode(seeds.rotated(number, kind), 24, "x"), upright)


@pytest.mark.parametrize("number", ROTATED)
def test_programs_that_take_one_picture_turn_it(tmp_path, number):
    from class2str_tf.predict import read_image
    from subclass_torch.predict import read_image as read_for_subclasses
    from triplet_tf.plots import _tile

    paths = [tmp_path / f"{n}.jpg" for n in (1, number)]
    for n, path in zip((1, number), paths, strict=True):
        path.write_bytes(seeds.rotated(n))
    for read in (
        lambda path: read_image(path, (24, 24, 3)),
        lambda path: read_image(path, (16, 16, 1)),
        lambda path: read_for_subclasses(path, 3),
        lambda path: np.asarray(_tile(path)),
    ):
        upright, turned = map(read, paths)
        np.testing.assert_array_equal(turned, upright)


def test_turning_agrees_with_pillow():
    from PIL import ImageOps

    for number in ROTATED:
        with Image.open(io.BytesIO(seeds.rotated(number, "PNG"))) as image:
            np.testing.assert_array_equal(turn(np.asarray(image), number), np.asarray(ImageOps.exif_transpose(image)))


def test_an_odd_centre_is_cut_after_turning():
    """The centre square of 5 x 2 pixels is one pixel nearer to one end: the end of the upright picture."""
    pixels = np.arange(10, dtype=np.uint8).reshape(2, 5)
    exif = Image.Exif()
    exif[274] = 3
    rotated, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels[::-1, ::-1]).save(rotated, "PNG", exif=exif)
    Image.fromarray(pixels).save(plain, "PNG")
    found = folder.decode(rotated.getvalue(), 2, "x")
    np.testing.assert_array_equal(found, folder.decode(plain.getvalue(), 2, "x"))
    np.testing.assert_array_equal(found[..., 0], pixels[:, 1:3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.replace(b"MM\0*", b"XX\0*", 1),
        lambda raw: raw.replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", 1),
        lambda raw: raw.replace(b"\x01\x12\0\x03\0\0\0\x01\0\x06", b"\x01\x12\0\x03\0\0\0\x01\0\x09", 1),
        lambda raw: raw.replace(b"\x01\x12\0\x03\0\0\0\x01\0\x06", b"\x01\x12\0\x02\0\0\0\x01a\0", 1),
        lambda raw: raw.replace(b"Exif\0\0", b"Exof\0\0", 1),
    ],
)
def test_a_damaged_exif_block_is_no_reason_to_refuse_a_whole_picture(damage):
    raw = damage(seeds.rotated(6))
    assert raw != seeds.rotated(6) and orientation(raw) == 1
    assert folder.decode(raw, 8, "x").shape == (8, 8, 3)
