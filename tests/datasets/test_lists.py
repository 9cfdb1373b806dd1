"""Csv lists: format, label map, faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import lists
from datasets.core import DatasetError
from datasets.lists import Rows

NAMES = st.text("abc 0123-_(),é", min_size=1, max_size=12).map(lambda text: f"x{text}.jpg")


def rows(*pairs: tuple[int, str]) -> Rows:
    return Rows(np.array([label for label, _ in pairs], np.int64), tuple(name for _, name in pairs))


@pytest.fixture
def folder(tmp_path):
    """A csv set with labels 3 and 7; its images are empty files."""
    home = tmp_path / "mine"
    (home / "lists").mkdir(parents=True)
    (home / "images" / "sub").mkdir(parents=True)
    train = rows((7, "a.jpg"), (3, "sub/b.jpg"), (3, "c, d.jpg"))
    test = rows((3, "e.jpg"), (7, "f.jpg"))
    for part, name in ((train, "train_all"), (test, "test")):
        lists.write_csv(home / "lists" / lists.FILES[name], part)
        for file in part.names:
            (home / "images" / file).touch()
    return home


# ---- the format -----------------------------------------------------------------------------------------------------


def test_the_authors_format(tmp_path):
    lists.write_csv(tmp_path / "a.csv", rows((0, "1025794.jpg"), (92, "2123466.jpg")))
    assert (tmp_path / "a.csv").read_bytes() == b",label,file_name\n0,0,1025794.jpg\n1,92,2123466.jpg\n"


def test_a_list_that_excel_wrote(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf,label,file_name\r\n0,3,a.jpg\r\n")
    assert lists.read_csv(tmp_path / "a.csv").names == ("a.jpg",)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(NAMES, st.integers(-5, 999), min_size=1, max_size=9))
def test_lists_come_back_as_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("l") / "a.csv"
    written = rows(*((label, name) for name, label in pairs.items()))
    lists.write_csv(path, written)
    found = lists.read_csv(path)
    assert found.names == written.names and found.labels.tolist() == written.labels.tolist()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_read_or_raise_one_line(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("f") / "a.csv"
    path.write_bytes(b",label,file_name\n" + raw)
    try:
        found = lists.read_csv(path)
    except DatasetError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert len(found.labels) == len(found.names) > 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label,file_name\n0,a.jpg\n", "first line is 'label,file_name', not ',label,file_name'"),
        (",label,file_name\n", "holds no rows"),
        (",label,file_name\n0,1\n", "line 2 is not `number,label,file name`"),
        (",label,file_name\n0,one,a.jpg\n", "line 2 is not"),
        (",label,file_name\n0,1,../../etc/passwd\n", "leaves the folder of images"),
        (",label,file_name\n0,1,/etc/passwd\n", "leaves the folder of images"),
        (",label,file_name\n0,1,a\\b.jpg\n", "'a\\\\b.jpg' holds a backslash or NUL; write / between folders"),
        (",label,file_name\n0,1,a\0b.jpg\n", "holds a backslash or NUL"),
        (",label,file_name\n0,1,a.jpg\n1,2,a.jpg\n", "a.jpg occurs twice"),
    ],
)
def test_faulty_lists(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DatasetError, match="a.csv: .*") as error:
        lists.read_csv(tmp_path / "a.csv")
    assert says in str(error.value)


# ---- loading --------------------------------------------------------------------------------------------------------


def test_one_label_map_by_sorted_value(folder):
    found = lists.load("csv:mine", folder / "lists", folder / "images", class_names={3: "three", 7: "seven"})
    assert found.train.labels.tolist() == [1, 0, 0] and found.test.labels.tolist() == [0, 1]
    assert found.class_names == ("three", "seven") and found.num_classes == 2 and not found.verified
    assert found.train.names[2] == "c, d.jpg" and set(found.digests) == {lists.FILES["train_all"], lists.FILES["test"]}


def refused(folder, match):
    with pytest.raises(DatasetError, match=match):
        lists.load("x", folder / "lists", folder / "images")


def test_row_without_a_file(folder):
    (folder / "images" / "sub" / "b.jpg").unlink()
    refused(folder, "train_all_sub_list.csv: row 1: .*b.jpg does not exist")


def test_test_label_outside_the_training_list(folder):
    lists.write_csv(folder / "lists" / lists.FILES["test"], rows((3, "e.jpg"), (8, "f.jpg")))
    refused(folder, "label 8 of f.jpg is not among the 2 labels of the training list")


def test_one_class_is_not_enough_and_missing_lists_are_named(folder):
    lists.write_csv(folder / "lists" / lists.FILES["train_all"], rows((3, "a.jpg")))
    refused(folder, "training list has 1 class")
    (folder / "lists" / lists.FILES["test"]).unlink()
    refused(folder, "test_all_sub_list.csv")


def test_an_image_in_both_lists_is_refused(folder):
    lists.write_csv(folder / "lists" / lists.FILES["test"], rows((3, "a.jpg"), (7, "f.jpg")))
    refused(folder, "a.jpg is in")


def test_folder_of_images(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / "a" / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "a" / split / name / f"{i}.PNG").touch()
    found = lists.from_folder(tmp_path / "a")
    assert found.class_names == ("cat", "dog") and found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.names == ("test/cat/0.PNG", "test/dog/0.PNG")
    single = lists.from_folder(tmp_path / "a" / "train")
    assert len(single.train.names) == 5 and len(single.test.names) == 1
    (tmp_path / "a" / "test" / "bird").mkdir()
    with pytest.raises(DatasetError, match="bird: a class that the training folder lacks"):
        lists.from_folder(tmp_path / "a")


def test_held_out_is_a_fixed_stratified_fifth_in_list_order():
    whole = rows(*((i % 4, f"{i:03}.jpg") for i in range(100)))
    train, val = lists.held_out(whole)
    assert np.bincount(val.labels).tolist() == [5] * 4 and len(train.names) == 80
    assert list(val.names) == sorted(val.names) and not set(val.names) & set(train.names)
    assert lists.held_out(whole)[1].names == val.names
