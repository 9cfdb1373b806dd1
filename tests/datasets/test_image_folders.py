"""One rule for every reader of class folders: what counts as an image, and the one line on what was ignored."""

import subprocess
from pathlib import Path

import pytest

import datasets
from datasets import DatasetError, folder, image_folders, imagenet, lists
from tests.fuzz import seeds

IMAGE = seeds.picture("PNG")


@pytest.fixture
def mixed(make, tmp_path):
    """Two classes with three images each, among all that lies in folders of images."""
    home = tmp_path / "set"
    for name in ("a", "b"):
        make.place(home / name, {f"{i}.png": IMAGE for i in range(3)})
    make.place(
        home / "a", {".DS_Store": b"x", "._0.png": b"x", "c.webp": b"x", "d.BMP": b"x", "e.webp": b"x", "f": b"x"}
    )
    make.place(home / "a" / "deeper", {"0.png": IMAGE})
    make.place(home / ".hidden", {"0.png": IMAGE})
    make.place(home, {"labels.csv": b"x"})
    (home / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (home / "b" / "itself.png").symlink_to("itself.png")
    (home / "b" / "linked.png").symlink_to(home / "a" / "0.png")
    return home


def by_folder(path: Path) -> list[str]:
    """Number of images of each class by the reader of decoded arrays."""
    found = folder.load(path, size=8)
    both = [*found.train_labels.tolist(), *found.test_labels.tolist()]
    return [f"{found.class_names[label]}" for label in sorted(both)]


def by_lists(path: Path) -> list[str]:
    found = lists.from_folder(path)
    both = [*found.train.labels.tolist(), *found.test.labels.tolist()]
    return [f"{found.class_names[label]}" for label in sorted(both)]


def by_imagenet(path: Path) -> list[str]:
    found = imagenet.scan(path)
    return [found.class_names[label] for label in found.labels.tolist()]


@pytest.mark.parametrize("read", [by_folder, by_lists, by_imagenet])
def test_every_reader_finds_the_same_images_and_counts_the_others_in_one_line(mixed, capsys, read):
    assert read(mixed) == ["a"] * 3 + ["b"] * 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{mixed}: ignored: 3 hidden, ")
    for counted in ("2 dangling link", "2 .webp", "1 .bmp", "1 other type", "1 sub-folder of a class"):
        assert f" {counted}" in line
    assert "1 outside the class folders" in line and line.endswith("with .jpg, .jpeg, .png")


@pytest.mark.parametrize("read", [by_folder, by_lists, by_imagenet])
def test_a_folder_of_images_alone_needs_no_line(make, tmp_path, capsys, read):
    for name in ("a", "b"):
        make.place(tmp_path / "set" / name, {f"{i}.png": IMAGE for i in range(3)})
    assert len(read(tmp_path / "set")) == 6 and capsys.readouterr().err == ""


@pytest.mark.parametrize("read", [by_folder, by_lists])
def test_every_class_has_a_training_image_and_some_are_left_for_the_test(make, tmp_path, read):
    for name in "abcdefghij":
        make.place(tmp_path / "set" / name, {"0.png": IMAGE})
    with pytest.raises(DatasetError, match="set: the only image of class 'i' fell into the test split; a class needs"):
        read(tmp_path / "set")
    for name in "cdefghij":
        (tmp_path / "set" / name / "0.png").rename(tmp_path / "set" / "a" / f"{name}.png")
        (tmp_path / "set" / name).rmdir()
    assert len(read(tmp_path / "set")) == 10
    for name in "cdefghij":
        (tmp_path / "set" / "a" / f"{name}.png").unlink()
    with pytest.raises(DatasetError, match="set: no image is left for the test split; more images are needed"):
        read(tmp_path / "set")


@pytest.mark.parametrize("read", [folder.load, lists.from_folder])
@pytest.mark.parametrize(("here", "path"), [(".", "."), ("a", "..")])
def test_a_folder_is_named_after_itself_however_it_is_written(mixed, monkeypatch, read, here, path):
    monkeypatch.chdir(mixed / here)
    assert read(Path(path)).name == "folder:set"


@pytest.mark.parametrize("read", [by_folder, by_lists])
def test_a_class_without_images_says_what_lies_there(make, tmp_path, read):
    make.place(tmp_path / "set" / "a", {"0.png": IMAGE})
    make.place(tmp_path / "set" / "b", {"0.webp": b"x", "1.webp": b"x"})
    with pytest.raises(DatasetError, match=r"set/b: no JPEG or PNG file .*; there: 2 \.webp$"):
        read(tmp_path / "set")
    for split in ("Train", "Test"):
        make.place(tmp_path / "divided" / split / "a", {"0.png": IMAGE})
    with pytest.raises(DatasetError, match="there: 1 sub-folder of a class; .* call the folders above them train and"):
        read(tmp_path / "divided")


@pytest.mark.parametrize("read", [by_folder, by_lists])
@pytest.mark.parametrize(
    ("has", "says"),
    [
        (("train", "val"), r"has train and val but no test; .*; to use val as test: ln -s val .*/set/test$"),
        (("train", "validation"), "has train and validation but no test; .*ln -s validation"),
        (("train",), "has train but no test; expected train and test, or one sub-folder per class$"),
        (("test", "val"), "has test and val but no train; .*; to use val as train"),
    ],
)
def test_half_a_division_is_refused_and_validation_folders_are_named(make, tmp_path, read, has, says):
    for split in has:
        for name in ("a", "b"):
            make.place(tmp_path / "set" / split / name, {"0.png": IMAGE})
    with pytest.raises(DatasetError, match=says):
        read(tmp_path / "set")


@pytest.mark.parametrize("read", [by_folder, by_lists])
def test_the_link_that_the_message_names_works_and_val_is_counted(make, tmp_path, capsys, read):
    for split in ("train", "val"):
        for name in ("a", "b"):
            make.place(tmp_path / "my set" / split / name, {"0.png": IMAGE})
    with pytest.raises(DatasetError) as caught:
        read(tmp_path / "my set")
    subprocess.run(str(caught.value).partition("use val as test: ")[2], shell=True, check=True)
    assert read(tmp_path / "my set") == ["a", "a", "b", "b"]
    assert "1 folder 'val' next to train and test" in capsys.readouterr().err


@pytest.mark.parametrize("read", [by_folder, by_lists])
def test_a_class_may_be_called_train(make, tmp_path, read):
    for name in ("plane", "train"):
        make.place(tmp_path / "set" / name, {f"{i}.png": IMAGE for i in range(3)})
    assert read(tmp_path / "set") == ["plane"] * 3 + ["train"] * 3


def test_a_folder_that_cannot_be_read_is_one_line(mixed, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(image_folders.os, "scandir", refuse)
    with pytest.raises(datasets.DatasetError, match=r"set: cannot be read \(Permission denied\)$"):
        image_folders.read(mixed)
