"""The command lines: `python -m datasets` lists the sets, `python -m datasets.cifar10` prepares one."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

import datasets
from datasets import lists
from datasets.core import DATA_ROOT, DatasetError, file_error
from datasets.fetch import announce, find
from datasets.manifest import Entry, entries, entry
from datasets.terminal import any_terminal


def _size(count: int) -> str:
    return "-" if count == 0 else f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def present(this: Entry, root: Path | None) -> str:
    """Where the files of a set are on this machine, or "".

    `present` of the module or its SOURCE decides; without one, `folders` are searched for the manifest's names.
    """
    module = importlib.import_module(f"datasets.{this.name}")
    source = getattr(module, "SOURCE", module)
    if hasattr(source, "present"):
        return str(source.present(root))
    path = find([f.name for f in (*this.contents, *this.files)], module.folders(root))
    return str(path.parent) if path else ""


def _list(root: Path | None) -> int:
    lines = [("set", "classes", "train / test", "download", "licence", "present")]
    for this in entries().values():
        counts = f"{this.train:,} / {this.test:,}" if this.train else "-"
        place = present(this, root) or "no"
        lines.append((this.name, str(this.classes or "-"), counts, _size(this.download_bytes), this.licence, place))
    print(tabulate(lines, tablefmt="plain", disable_numparse=True))
    print("\nprepare one: python -m datasets.NAME\ncheck all: python -m datasets --verify\nmore: docs/data.md")
    return 0


def _prepare(this: Entry, root: Path | None, accept: bool, offline: bool | None) -> None:
    """Prepares one set and prints what it holds; a module may do so itself with a function `prepare`."""
    module = importlib.import_module(f"datasets.{this.name}")
    if hasattr(module, "prepare"):
        module.prepare(root, accept)
        return
    source = getattr(module, "SOURCE", None)
    if source is not None:  # a set of files on disk
        _describe_lists(lists.load_set(source, root, accept, offline))
        return
    ds = datasets.load(this.name, root, accept, offline)
    state = "verified" if ds.verified else "UNVERIFIED (digests differ from the manifest's)"
    shape = " x ".join(map(str, ds.train_images.shape[1:]))
    print(
        f"{this.name}: {len(ds.train_labels):,} train and {len(ds.test_labels):,} test images of {shape}, "
        f"{ds.num_classes} classes, {state}"
    )
    counts = np.bincount(ds.train_labels, minlength=ds.num_classes)
    print(f"  training images per class: {counts.min():,} to {counts.max():,}")
    for name, digest in ds.digests.items():
        print(f"  sha256 {digest}  {name}")


def _describe_lists(opened: lists.ImageLists) -> None:
    state = "the published lists" if opened.verified else "lists derived here, no published digest to hold them against"
    print(
        f"{opened.name}: {len(opened.train.names):,} train and {len(opened.test.names):,} test images, "
        f"{opened.num_classes} classes, {state}"
    )
    for name, digest in opened.digests.items():
        print(f"  sha256 {digest}  {name}")


def _verify_all(root: Path | None, accept: bool) -> int:
    failures = 0
    for this in entries().values():
        if not present(this, root):
            print(f"{this.name}: not present, nothing to check")
            continue
        try:
            _prepare(this, root, accept, offline=True)
        except DatasetError as error:
            failures += 1
            print(f"{this.name}: FAILED: {error}")
    print(f"{failures} of {len(entries())} sets failed" if failures else "every set that is present is intact")
    return 1 if failures else 0


@any_terminal()
def main(name: str | None = None, argv: list[str] | None = None) -> int:
    """Runs the command line of one set, or of all with `name` None; returns the exit code."""
    module = f"datasets.{name}" if name else "datasets"
    what = entry(name).title if name else "data sets: what they are, and what of them is on this machine"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=what, allow_abbrev=False)
    root_help = f"data folder (default: {DATA_ROOT.name}/ of this repository)"
    parser.add_argument("--root", "--data-dir", type=Path, default=None, help=root_help)
    parser.add_argument("--verify", action="store_true", help="check what is there; download nothing")
    parser.add_argument("--accept-unverified", action="store_true", help="use files with another digest")
    if name:
        parser.add_argument("--offline", action="store_true", default=None, help="never download")
    get = getattr(importlib.import_module(module), "get", None) if name else None  # files that are fetched one by one
    if name and get:
        parser.add_argument("file", nargs="*", help="file to download: " + ", ".join(f.name for f in entry(name).files))
    args = parser.parse_args(argv)
    try:
        if name is None:
            return _verify_all(args.root, args.accept_unverified) if args.verify else _list(args.root)
        this = entry(name)
        if not args.verify:
            announce(this, sys.stdout)
        if get and not args.verify:
            for file in args.file:
                print(get(file, args.root, args.offline).name)
        _prepare(this, args.root, args.accept_unverified, True if args.verify else args.offline)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has left: `any_terminal` ends the program
        raise
    except OSError as error:
        print(f"error: {file_error(name or 'datasets', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues the download", file=sys.stderr)
        return 130
    return 0
