"""Stanford Cars: 16,185 photographs of 196 models; 8,144 train, 8,041 test. Labels are 1..196, as the official ones.

Source: cars_annos.mat (one struct array over car_ims/, with the flag `test`); docs/papers/triplet.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import lists, matfile
from datasets.core import DatasetError
from datasets.files import reading

NAME = "cars"
FIELDS = ("relative_im_path", "class", "test")


def derive(home: Path) -> lists.Derived:
    """The four lists in the order of the annotations; no official validation split, so ours.

    Raises:
      DatasetError: damaged file, or one without the expected fields.
    """
    path = home / "cars_annos.mat"
    with reading(path):
        annotations, named = matfile.table(path, "annotations"), matfile.table(path, "class_names")
        missing = [name for name in FIELDS if not isinstance(annotations, dict) or name not in annotations]
        if missing:
            raise DatasetError(f"{path}: annotations have no field {', '.join(missing)}")
        files = tuple(str(name) for name in annotations["relative_im_path"])
        labels = np.array([int(value.item()) for value in annotations["class"]], np.int64)
        test = np.array([bool(value.item()) for value in annotations["test"]], bool)
        class_names = [str(name) for name in named]
    if not labels.size or labels.min() < 1 or labels.max() > len(class_names):
        raise DatasetError(f"{path}: a class is not in 1..{len(class_names)}")
    whole = lists.Rows(labels, files)
    rows = {"train_all": whole.take(np.flatnonzero(~test)), "test": whole.take(np.flatnonzero(test))}
    rows["train"], rows["val"] = lists.held_out(rows["train_all"])
    return lists.Derived(rows, dict(enumerate(class_names, 1)))


SOURCE = lists.Source(
    name=NAME,
    folders=(NAME, "stanford_cars"),
    images=".",
    needs=("car_ims", "cars_annos.mat"),
    derive=derive,
    unpack={"car_ims.tgz": "car_ims"},
)

if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
