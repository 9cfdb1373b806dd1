"""Writes docs/data.md from the manifest: python -m datasets.docs"""

from __future__ import annotations

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

`--root FOLDER` (or `--data-dir FOLDER`) is the data folder, `data/` of this repository by default; below it is called
DATA. `DATASETS_OFFLINE=1` or `--offline` forbids downloads. Files placed by hand are checked exactly like downloaded
ones. Other files than the manifest's are taken only with `--accept-unverified`; results measured on them are marked so
and are not compared with a paper's numbers.

A download that was cut off, even by `kill -9`, is continued by the same command. A file stands under its own name only
after its digest was right; until then it is `DATA/<set>/.incoming/<file>.partial`. Mirrors are tried in order. Where no
digest was ever published, the sha256 of the first file seen is shown, stored in `digests.json` beside it, and compared
from then on.

SVHN is decoded once into `DATA/svhn/*.npy` (1.9 GB beside the 1.6 GB downloaded) and memory-mapped from there.

Your own images: `folder:PATH` wherever a data set name is expected. PATH holds `train/CLASS/` and `test/CLASS/`, or one
sub-folder per class, which is then split 80/20 (stratified, seed 0). An image is a file `.jpg`, `.jpeg` or `.png` in
the folder of its class; hidden files (`.DS_Store`, `._x.png`), dangling links, other types and sub-folders of a class
are passed over, and one line counts them. The centre square is brought to the network's size, grey becomes RGB.

Every reader of image files turns a picture upright as its EXIF block says.

A run belongs to the data it was started on. Its folder keeps their digests in `data.json`; the same command on other
data (pictures were added, another folder has the same name) is refused with one line, and `--overwrite` starts anew. A
stage also refuses an earlier stage that was trained on other data. Files that were only touched or copied are the same
data.

`aircraft`, `flowers102`, `cars`, `dogs` and `nabirds` stay on disk as they are. Their preparers unpack the official
archives and write four lists into `DATA/<set>/lists/` in the format of the triplet authors (header `,label,file_name`);
lists that lie there already are kept. Cars, dogs and NABirds have no official validation split: theirs is a stratified
fifth of the training list, seed 0.
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
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(render(), encoding="utf-8")
    print(f"wrote {PATH.relative_to(REPO_ROOT)}")
