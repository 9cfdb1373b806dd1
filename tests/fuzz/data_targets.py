"""The parsers of datasets/: what is put in and who reads it."""

from __future__ import annotations

import codecs
import gzip
from typing import Any

import numpy as np

from datasets import cars, flowers102, nabirds
from datasets.core import DatasetError
from tests.fuzz import mutate, seeds
from tests.fuzz import readers_data as data
from tests.fuzz import readers_runs as runs
from tests.fuzz.engine import Target

BAD = (DatasetError,)


def _cifar() -> list[bytes]:
    from tests.datasets.conftest import cifar10_files

    return [cifar10_files(count)["test_batch"] for count in (1, 3)]


def _meta() -> list[bytes]:
    from tests.datasets.conftest import cifar100_files

    return [cifar100_files()["meta"]]


def _idx() -> list[bytes]:
    return [seeds.idx(np.arange(n * 12).reshape(n, 4, 3)) for n in (1, 5)]


def _svhn() -> list[bytes]:
    images = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3, 2)
    labels = np.array([[3.0], [10.0]])
    return [seeds.mat({"X": images, "y": labels}, compressed) for compressed in (True, False)]


def _cars(test: int = 1) -> bytes:
    row = np.array(
        [(f"car_ims/{i}.jpg", 1 + i % 2, i % 5 == test) for i in range(10)],
        [("relative_im_path", "O"), ("class", "O"), ("test", "O")],
    )
    return seeds.mat({"annotations": row, "class_names": np.array(["Audi", "BMW"], object)})


def _dogs() -> bytes:
    files = np.array([[f"n1-Pug/{i}.jpg"] for i in range(10)], object)
    return seeds.mat({"file_list": files, "labels": np.arange(1, 11)[:, None] % 3 + 1})


def _flowers() -> dict[str, bytes]:
    ids = {"trnid": np.arange(1, 5), "valid": np.arange(5, 9), "tstid": np.arange(9, 13)}
    return {"setid.mat": seeds.mat(ids), "imagelabels.mat": seeds.mat({"labels": np.arange(12) % 3 + 1})}


def _birds() -> dict[str, bytes]:
    ids = [f"id-{i}" for i in range(10)]
    return {
        "images.txt": "".join(f"{k} 0{i % 2}/{k}.jpg\n" for i, k in enumerate(ids)).encode(),
        "image_class_labels.txt": "".join(f"{k} {5 + 2 * (i % 2)}\n" for i, k in enumerate(ids)).encode(),
        "train_test_split.txt": "".join(f"{k} {int(i % 3 > 0)}\n" for i, k in enumerate(ids)).encode(),
        "classes.txt": b"5 Owl\n7 Wren\n",
    }


def _aircraft() -> dict[str, bytes]:
    text = "".join(f"{i:07d} {'707-320' if i % 2 else 'F/A-18'}\n" for i in range(8))
    part = {split: text.replace("000000", f"{n}00000") for n, split in enumerate(("train", "val", "test"))}
    return {f"fgvc-aircraft-2013b/data/images_variant_{split}.txt": body.encode() for split, body in part.items()}


CSV = b",label,file_name\n0,3,a.jpg\n1,7,sub/b (1).jpg\n2,3,c.jpg\n"
EVIL_CSV = (
    [
        b",label,file_name\n0,1," + name + b"\n1,2,x.jpg\n"
        for name in (b"../up.jpg", b"/etc/passwd", b"a/../../up", b"a\\b.jpg", b"a\0b.jpg", b'"../up"')
    ]
    + [b",label,file_name\n0," + b"9" * n + b",a\n1,1,b\n" for n in (19, 25, 5000)]
    + [CSV[:17], b"", b"\xff" * 40]
)


def _pathmnist(count: int = 2) -> dict[str, Any]:
    images = np.arange(count * 2352, dtype=np.uint32).astype(np.uint8).reshape(count, 28, 28, 3)
    return {"val_images": images, "val_labels": np.arange(count, dtype=np.uint8)[:, None]}


def _digits() -> list[bytes]:
    return [((b"0," * 784 + b"7\n") * 5000)]


MANIFEST = """[x]
title = "X"
classes = 2
train = 1
test = 1
shape = [4, 4, 1]
homepage = "http://x"
licence = "MIT"
citation = "c"
by_hand = "DATA/x"
mirrors = ["http://x/"]
[[x.file]]
name = "a.gz"
bytes = 12
digest = { algorithm = "md5", value = "00", evidence = "published by X" }
[[x.content]]
name = "a"
digest = { evidence = "unknown" }
"""
ENTRY = MANIFEST.encode()
EVIL_MANIFEST = [
    ENTRY.replace(b'"a.gz"', b'"../up"'),
    ENTRY.replace(b'"a.gz"', b'"/etc/x"'),
    ENTRY.replace(b"digest", b"d"),
    b"x = 1",
    b"[x]",
    ENTRY.replace(b"[4, 4, 1]", b"4"),
    ENTRY.replace(b"md5", b"rot13"),
    ENTRY.replace(b"= 12", b'= "12"'),
    b"a=" + b"[" * 5000,
    b"\xff",
    ENTRY.replace(b"unknown", b"published"),
    ENTRY.replace(b'"http://x/"', b"7"),
    ENTRY.replace(b'["http://x/"]', b"7"),
]


def targets() -> list[Target]:
    """Every reader of data sets; none imports a framework."""
    birds, t = _birds(), Target
    beside = data.derived(nabirds, _birds)
    first_split = next(iter(_aircraft().values()))
    json_in, zip_in, mat_in = (mutate.json_value,), (mutate.zip_member,), (mutate.mat_element,)
    return [
        t("cifar", "test_batch", _cifar, data.cifar_batch, BAD, seeds.evil_pickles),
        t("cifar meta", "meta", _meta, data.cifar_meta, BAD, seeds.evil_pickles),
        t("idx", "images", _idx, data.idx_images, BAD, seeds.evil_idx),
        t(
            "idx gz",
            "images.gz",
            lambda: [gzip.compress(s, mtime=0) for s in _idx()],
            data.idx_images,
            BAD,
            lambda: [gzip.compress(bytes(1 << 24)), b"", *_idx()],
            (mutate.gzipped,),
        ),
        t("svhn", "x.mat", _svhn, data.svhn_file, BAD, seeds.evil_mat, mat_in),
        t(
            "flowers",
            "setid.mat",
            lambda: [_flowers()["setid.mat"]],
            data.derived(flowers102, _flowers),
            BAD,
            seeds.evil_mat,
            mat_in,
        ),
        t("cars", "cars_annos.mat", lambda: [_cars()], data.derived(cars, dict), BAD, seeds.evil_mat, mat_in),
        t("dogs", "train_list.mat", lambda: [_dogs()], data.dogs_list, BAD, seeds.evil_mat, mat_in),
        t(
            "nabirds labels",
            "image_class_labels.txt",
            lambda: [birds["image_class_labels.txt"]],
            beside,
            BAD,
            lambda: [b"id-0 " + b"9" * 30, b"", b"\xff\xff", b"id-0"],
        ),
        t(
            "nabirds images",
            "images.txt",
            lambda: [birds["images.txt"]],
            beside,
            BAD,
            lambda: [b"id-0 ../../up.jpg\nid-1 b.jpg\nid-2 c.jpg\n", b"id-0 /etc/passwd\n", b""],
        ),
        t("nabirds classes", "classes.txt", lambda: [birds["classes.txt"]], beside, BAD),
        t(
            "aircraft split",
            "images.txt",
            lambda: [first_split, codecs.BOM_UTF8 + first_split],
            data.aircraft_split,
            BAD,
        ),
        t("csv list", "a.csv", lambda: [CSV, codecs.BOM_UTF8 + CSV], data.csv_list, BAD, lambda: EVIL_CSV),
        t(
            "imagenet list",
            "l.json",
            lambda: [seeds.dumped({"paths": ["train/a.jpg", "train/b.jpg"], "labels": [0, 999]})],
            data.image_lists,
            BAD,
            lambda: [
                *seeds.deep_json(),
                seeds.dumped({"paths": ["../up"], "labels": [0]}),
                seeds.dumped({"paths": ["train/a.jpg"], "labels": [10**30]}),
            ],
            json_in,
        ),
        t(
            "pathmnist",
            "p.npz",
            lambda: [seeds.npz(_pathmnist())],
            data.medmnist,
            BAD,
            lambda: seeds.evil_npz(list(_pathmnist())),
            zip_in,
        ),
        t(
            "picture",
            "p.png",
            lambda: [
                seeds.picture("PNG"),
                seeds.picture("JPEG"),
                seeds.picture("PNG", (5, 9), "I;16"),
                seeds.picture("PNG", (8, 8), "P"),
                *(seeds.rotated(number, kind) for number in (3, 6) for kind in ("JPEG", "PNG")),
            ],
            data.photograph,
            BAD,
            seeds.evil_pictures,
        ),
        t(
            "tar",
            "a.tar.gz",
            lambda: [seeds.tar([("a", b"1"), ("b/c", b"22")])],
            data.unpacked,
            BAD,
            seeds.evil_tar,
            (mutate.tar_member, mutate.gzipped),
        ),
        t(
            "zip",
            "a.zip",
            lambda: [mutate.zipped([("a", b"1"), ("b/c", b"22")], 8)],
            data.unpacked,
            BAD,
            seeds.evil_zip,
            zip_in,
        ),
        t(
            "mnist5k",
            "d.csv",
            _digits,
            data.digits,
            BAD,
            lambda: [b"", b"1,2\n" * 9, b"x" * 99, b"1e9," * 785],
            share=0.02,
        ),
        t("manifest", "manifest.toml", lambda: [ENTRY], data.manifest_file, BAD, lambda: EVIL_MANIFEST),
        t(
            "ledger",
            "digests.json",
            lambda: [seeds.dumped({"y": "00"})],
            data.ledger,
            BAD,
            lambda: [*seeds.deep_json(), b"[]", seeds.dumped({"x": "00"}), seeds.dumped({"x": [1]})],
            json_in,
        ),
        t(
            "download note",
            "part.json",
            lambda: [seeds.dumped({"url": "http://x/y", "validator": '"e"'})],
            runs.downloaded,
            (),
        ),
    ]
