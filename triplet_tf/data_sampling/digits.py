"""A set of small images (by default the embedded digits) written as image files with csv lists in the paper's format.

python -m triplet_tf.data_sampling.digits --name mnist5k
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np

import datasets
from datasets import lists
from datasets.fetch import locked
from datasets.files import reading, write_json
from reproduction.runtime.flags import Parser, flag, run_main
from reproduction.runtime.run_folder import DATA_ROOT, read_json, shown

SOURCE = "source.json"  # what the files were written from, and one digest over all of them
FOLDER = "_files"  # <data>/<name>_files, so that it never meets the set's own folder


def home(name: str, root: Path) -> Path:
    """Returns the folder of the files of a set."""
    return root / f"{name}{FOLDER}"


def load(
    name: str, root: Path, train: str = "train_all", test: str = "test", accept_unverified: bool = False
) -> lists.ImageLists:
    """Opens the lists of a set, written at the first call.

    Args:
      name: one of datasets.NAMES.
      root: the data folder.
      train: key of datasets.lists.FILES.
      test: key of datasets.lists.FILES.
      accept_unverified: use files whose digest differs from the manifest's.
    Raises:
      DatasetError: the files differ from those that were written.
    """
    folder = home(name, root)
    if not (folder / SOURCE).is_file():
        write(name, root, accept_unverified)
    written = read_json(folder / SOURCE, "classes", "digest", "digests", "verified")
    names = dict(enumerate(written["classes"]))
    opened = lists.load(f"csv:{name}", folder / "lists", folder / "images", train, test, names)
    if digest(folder) != written["digest"]:
        raise datasets.DatasetError(f"{folder}: images or lists are not as they were written; delete the folder")
    digests = {**written["digests"], f"{name}{FOLDER}": written["digest"]}
    return dataclasses.replace(opened, digests=digests, verified=written["verified"])


def digest(folder: Path) -> str:
    """Computes one sha256 over names and contents of all lists and images."""
    whole = hashlib.sha256()
    for path in sorted([*(folder / "lists").glob("*.csv"), *(folder / "images").glob("*.png")]):
        with reading(path):
            whole.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def write(name: str, root: Path, accept_unverified: bool = False) -> Path:
    """Writes every image as PNG and the four lists; all or nothing.

    A fifth of the training images, stratified, makes train_sub and val_sub; train_all is all of them.

    Returns:
      The folder.
    """
    from PIL import Image

    data = datasets.load(name, root, accept_unverified)
    folder = home(name, root)
    with locked(folder):
        if (folder / SOURCE).is_file():
            return folder
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        for part in ("images", "lists"):
            (partial / part).mkdir(parents=True)
        rows = {}
        for key, images, labels in (
            ("train_all", data.train_images, data.train_labels),
            ("test", data.test_images, data.test_labels),
        ):
            names = tuple(f"{key.partition('_')[0]}_{i:05d}.png" for i in range(len(labels)))
            rows[key] = lists.Rows(np.asarray(labels), names)
            for image, file in zip(images, names, strict=True):
                out = io.BytesIO()
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
                (partial / "images" / file).write_bytes(out.getvalue())
        rows["train"], rows["val"] = lists.held_out(rows["train_all"])
        for key, file in lists.FILES.items():
            lists.write_csv(partial / "lists" / file, rows[key])
        written = {
            "set": name,
            "classes": list(data.class_names),
            "digests": dict(data.digests),
            "verified": data.verified,
            "digest": digest(partial),
        }
        for part in ("images", "lists"):
            shutil.rmtree(folder / part, ignore_errors=True)
            os.replace(partial / part, folder / part)
        write_json(folder / SOURCE, written)
        shutil.rmtree(partial)
    return folder


def main() -> None:
    """Writes a set of `datasets` as image files, which --db_name csv:NAME reads."""
    parser = Parser("triplet_tf.data_sampling.digits", "Writes a set of small images as files with csv lists.")
    flag(parser.additions, "--name", choices=datasets.NAMES, default="mnist5k", help="which set (default mnist5k)")
    flag(parser.additions, "--data-dir", default=str(DATA_ROOT), help="data folder (default: data/)")
    args = parser.parse_args()
    folder = write(args.name, Path(args.data_dir))
    print(f"{shown(folder)}: use it as --db_name csv:{args.name}")


if __name__ == "__main__":
    run_main(main)
