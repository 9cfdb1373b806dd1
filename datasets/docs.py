"""Writes docs/data.md from the manifest: python -m datasets.docs"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tabulate import tabulate

from datasets.core import REPO_ROOT
from datasets.manifest import Digest, Entry, entries

PATH = REPO_ROOT / "docs" / "data.md"

HEAD = """# Data

Generated from `datasets/manifest.toml` by `python -m datasets.docs`; do not edit by hand.

| command | what it does |
| --- | --- |
| `python -m datasets` | lists the sets, their licences and sizes, and what is on this machine |
| `python -m datasets.cifar10` | prepares one set: finds or downloads it, verifies, decodes |
| `python -m datasets.cifar10 --verify` | checks the files that are there; downloads nothing |
| `python -m datasets --verify` (`make verify-data`) | the same for every set that is present |
| `python -m datasets.weights FILE` | downloads one file of ImageNet weights; `--help` lists them |

They need the environment: run `. .venv/bin/activate` first (`make setup` creates it), or use `make data-cifar10`.
`--root FOLDER` (or `--data-dir FOLDER`) sets the data folder. The default is `data/` of this repository. DATA stands
for this folder below. `DATASETS_OFFLINE=1` or `--offline` forbids downloads.

**Checks.** Files that you place by hand are checked exactly like downloaded ones. Files that differ from the manifest
are used only with `--accept-unverified`. Results measured on them are marked as unverified and are not compared with
a paper's numbers.

**Downloads.** The same command continues a download that was interrupted, even by `kill -9`. During the download the
file is `DATA/<set>/.incoming/<file>.partial`. It gets its own name only after its digest was checked. Mirrors are
tried in order. If no digest was ever published, the sha256 of the first file is printed, stored in `digests.json` in
the same folder, and compared from then on.

**SVHN** is decoded once into `DATA/svhn/*.npy` (1.9 GB, in addition to the 1.6 GB downloaded) and memory-mapped from
there.

**Your own images.** Use `folder:PATH` as the name of a data set. PATH contains `train/CLASS/` and `test/CLASS/`, or
one sub-folder for each class, with two images or more; these are then split 80/20 (stratified, seed 0). An image is a
file `.jpg`, `.jpeg` or `.png` in the folder of its class. Hidden files (`.DS_Store`, `._x.png`), dangling links, other
file types and sub-folders of a class are ignored, and one line counts them. Each image is cropped to its central
square and resized to the network's size; only the triplet paper crops as its own flags say. Grey images become RGB,
transparency is ignored. A split with more than 64 MB of files, or of more than 512 MB in memory, is decoded once into
`DATA/folder/*.npy`; these files may be deleted when nothing runs.

**Orientation.** Every reader of image files rotates an image as its EXIF orientation says.

**A run belongs to its data.** The run folder stores the digests of the data in `data.json`. If the data have changed
(images were added, or another folder has the same name), the same command stops with one line; `--overwrite` starts
again from nothing. Stage 2 also refuses a stage 1 that was trained on other data. Files that were only touched or
copied count as the same data.

**Sets that stay on disk as image files**: `aircraft`, `flowers102`, `cars`, `dogs` and `nabirds`. Their commands
unpack the official archives and write four lists into `DATA/<set>/lists/`, in the format of the triplet authors
(header `,label,file_name`). Only the triplet paper reads them; its own names are `aircrafts`, `flowers`, `cars`, `dogs`
and `birds`. Lists that exist already are not changed. Cars, dogs and NABirds have no official
validation split, so we use a stratified fifth of the training list (seed 0).

**ImageNet** is listed once into `DATA/imagenet/lists/*.json`. Delete these files after adding or removing images.

**YouTube-8M** is read by the subclass paper's own code: see [its page](papers/subclass.md#youtube-8m).

"recalled" in the table means that nobody here could open the source of this statement.
"""


def _shape(entry: Entry) -> str:
    return " x ".join(map(str, entry.shape)) or "-"


def _bytes(count: int | None) -> str:
    return f"{count:,}" if count else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, head, "github", disable_numparse=True, stralign=None)


def _digest(digest: Digest) -> str:
    return f"{digest.algorithm} `{digest.value}`" if digest.algorithm else "-"


def render() -> str:
    """The whole page as Markdown."""
    lines = [HEAD, "## Sets\n"]
    head = ("set", "what", "classes", "train", "test", "image", "download, bytes", "licence")
    counts = [[_bytes(count) for count in (e.classes, e.train, e.test)] for e in entries().values()]
    rows = [
        (f"`{e.name}`", e.title, *count, _shape(e), _bytes(e.download_bytes), e.licence)
        for e, count in zip(entries().values(), counts, strict=True)
    ]
    lines.append(_table(head, rows))
    for e in entries().values():
        lines += [f"\n## {e.name}\n", f"{e.title}. Home page: {e.homepage}", ""]
        lines += [f"* Licence: {e.licence}.", f"* Please cite: {e.citation}", f"* By hand: {e.by_hand}."]
        files = [(f"`{f.name}`", _bytes(f.bytes), _digest(f.digest), f.digest.evidence) for f in e.files + e.contents]
        if files:
            lines += ["", _table(("file", "bytes", "digest", "evidence"), files)]
        hosts = list(dict.fromkeys(url.rsplit("/", 1)[0] + "/" for f in e.files for url in f.urls))
        if hosts:
            lines += ["", "Addresses, in order: " + ", ".join(f"<{h}>" for h in hosts)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(
        "python -m datasets.docs", description=f"Writes {PATH.name} from the manifest."
    ).parse_args()
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(render(), encoding="utf-8")
    print(f"wrote {PATH.relative_to(REPO_ROOT)}")
