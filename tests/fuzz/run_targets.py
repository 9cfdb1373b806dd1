"""The parsers of run folders, records, tables, trees, clusterings, the viewer and the command lines."""

from __future__ import annotations

import codecs
from functools import cache

import numpy as np

from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests.fuzz import mutate, seeds
from tests.fuzz import readers_runs as runs
from tests.fuzz.engine import Target

WRONG = (UserError,)


@cache
def _record() -> bytes:
    from tests.reproduction.conftest import metric, record

    made = record({"fc_accuracy": metric(0.99), "lh_accuracy": metric(0.98, 0.985)}, curve="metrics.jsonl")
    return seeds.dumped(made.model_dump(mode="json") | {"artefacts": [{"kind": "text", "path": "a.txt", "title": "t"}]})


def _tables() -> list[bytes]:
    folder = REPO_ROOT / "reproduction" / "tables"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))[:2]]


METRICS = b"".join(seeds.dumped({"step": i, "loss": 1 / (i + 1), "test/accuracy": 0.5}) + b"\n" for i in range(8))
TREE = {
    "id": 0,
    "name": "all",
    "classes": [0, 1, 2, 3],
    "children": [
        {"id": 1, "name": "one", "children": [{"name": "a", "classes": [0]}, {"name": "b"}]},
        {"id": 4, "name": "two", "classes": [2, 3], "children": []},
    ],
}
EVIL_TREES = [
    seeds.dumped(value)
    for value in (
        [],
        7,
        None,
        {},
        {"children": 3},
        {"children": [[]]},
        {"name": "a", "classes": [10**30]},
        {"classes": ["a"]},
        {"classes": [True]},
        {"classes": [0, 1, 2, 3, 3]},
        {"classes": [0, 1, 2, -1]},
        {"classes": [0, 1, 2]},
        {"children": [{"classes": []}]},
        {"name": {"a": 1}, "classes": list(range(4)) * 2000},
        {"classes": [0, 1, 2, 3], "children": [{"classes": [0, 0]}]},
    )
]
EVIL_RESPONSES = (np.full((4, 3), np.inf), np.full((4, 3), "a"), np.ones((4, 3), complex), np.full((4, 3), 1e300))
SCORES = {"scores": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]] * 3, "labels": np.array([0, 1, 2, 3, 1])}
COUNTS = [[9, 1, 0, 0], [1, 9, 0, 0], [0, 0, 9, 1], [0, 0, 1, 9]]
CONFUSION = {"class_names": runs.NAMES, "confusion_last": COUNTS, "confusion_best": None}
CLUSTERING = {name: np.arange(4) for name in ("pseudo", "raw", "hard", "strength", "embedding", "parent")}


def examples() -> list[bytes]:
    from subclass_torch.yt8m.tfrecord import build_example, frame

    one = {
        "id": [b"ab"],
        "labels": np.array([1, 5]),
        "mean_rgb": np.ones(1024, np.float32),
        "mean_audio": np.zeros(128, np.float32),
    }
    return [frame(build_example(one)), frame(build_example(one | {"labels": np.array([0])})) * 2]


def evil_records() -> list[bytes]:
    """Lengths that claim terabytes with right checksums, and messages that are none."""
    import struct

    from subclass_torch.yt8m.tfrecord import frame, masked_crc

    claims = [struct.pack("<Q", n) for n in (2**63 - 1, 2**40, 2**31, 1 << 26)]
    # field 1 of field 1, for ever; a number of more than 64 bits; a length beyond the message
    messages = (
        b"\n\xff\xff\xff\xff\x0f",
        b"\x08" + b"\xff" * 20,
        b"\n\x02\n\x7f",
        b"\n\x05\n\x03\n\x01\xff",
        b"\x0b",
        b"\n\x04\n\x02\x12\x00",
    )
    return [head + struct.pack("<I", masked_crc(head)) + bytes(99) for head in claims] + [
        frame(body) for body in messages[:3]
    ]


COMMANDS = (
    "fc --B=256 --model lenet --lr 0.01",
    "rnn --B 200 --seed 3 --lstm-units 100,20",
    "notebook --dataset svhn --epochs 3 --subclass",
    "yt8m --num_classes 12 --num_subclasses 15 --num-neglected 3 --batch_size 9",
    "pipeline --alpha 0.1 0.9 --threshold 80 --stage coarse",
    "main --strategy transfer",
    "triplet --batch_size 32 --margin 0.2 --caffe_iter_size 2",
    "train --stage aware --arm A2 --levels 2,9",
    "sweep --seeds '0 1'",
    "analyze --run runs/x --what confusion",
)


def targets() -> list[Target]:
    """Every reader of what runs and people write that needs no framework."""
    json_in, zip_in = (mutate.json_value,), (mutate.zip_member,)
    confusion, scores, t = np.eye(4, dtype=np.int64) * 9, lambda: [seeds.npz(SCORES)], Target
    return [
        t(
            "json",
            "a.json",
            lambda: [seeds.dumped({"name": 1, "a": [1, {"b": 2}]})],
            runs.json_file,
            WRONG,
            lambda: [*seeds.deep_json(), b"[]", b"7", b"{}"],
            json_in,
        ),
        t(
            "config",
            "config.json",
            lambda: [seeds.dumped({"lr": 0.1})],
            runs.run_config,
            WRONG,
            lambda: [*seeds.deep_json(), b"[]", b"7", b"null", b'{"lr": 1}'],
            json_in,
        ),
        t(
            "done",
            "DONE",
            lambda: [seeds.dumped({"flags": "0", "commit": "0" * 40, "date": "2026"})],
            runs.run_done,
            WRONG,
            lambda: [*seeds.deep_json(), b"[]", b"7", b"null"],
            json_in,
        ),
        t(
            "data of a run",
            "data.json",
            lambda: [seeds.dumped({"digests": {"set": "0"}, "place": "", "fingerprint": ""})],
            runs.run_data_note,
            WRONG,
            lambda: [
                *seeds.deep_json(),
                b"[]",
                b"7",
                b"null",
                b"{}",
                b'{"digests": 7, "place": "", "fingerprint": ""}',
            ],
            json_in,
        ),
        t(
            "changing folder",
            "changes",
            lambda: [b"", b"\x00\x01", b"\x02\x05", b"\x03\x01\x01\x02", b"\x01\x00\x01\x01\x01\x02\x01\x03"],
            runs.changing_folder,
            (),
            share=0.3,
        ),
        t(
            "metrics",
            "metrics.jsonl",
            lambda: [METRICS],
            runs.metrics,
            WRONG,
            lambda: [
                b"7\n",
                b"{}\n",
                b"[]\n",
                b'{"step": "a"}\n',
                b"[" * 100_000 + b"\n",
                b"\xff\n",
                b'{"step": null}\n',
            ],
            json_in,
        ),
        t("curve", "metrics.jsonl", lambda: [METRICS], runs.curve, (), inside=json_in),
        t("record", "record.json", lambda: [_record()], runs.one_record, WRONG, seeds.deep_json, json_in),
        t("compare", "record.json", lambda: [_record()], runs.compared, WRONG, inside=json_in, share=0.3),
        t("table", "class2str.toml", _tables, runs.table, WRONG, lambda: [b"a=" + b"[" * 5000, b"\xff", b"x", b""]),
        t(
            "gallery",
            "a.png",
            lambda: [seeds.picture("PNG"), b'{"a": 1}', b"<svg></svg>"],
            runs.artefact,
            (),
            inside=json_in,
        ),
        t(
            "tree",
            "tree.json",
            lambda: [seeds.dumped(TREE)],
            runs.tree,
            WRONG,
            lambda: [*seeds.deep_json(), *EVIL_TREES],
            json_in,
        ),
        t(
            "viewer npy",
            "m.npy",
            lambda: [seeds.npy(confusion), seeds.npy(np.stack([confusion] * 2))],
            runs.viewer("--confusion", "FILE", "--names", "HERE/names.txt"),
            WRONG,
            lambda: [*seeds.evil_npy(), seeds.npy(np.diag([2.0**60] * 4))],
        ),
        t(
            "viewer csv",
            "m.csv",
            lambda: [start + b"9,0,0,1\n0,9,1,0\n0,1,9,0\n2,0,0,9\n" for start in (b"", codecs.BOM_UTF8)],
            runs.viewer("--confusion", "FILE", "--names", "HERE/names.txt"),
            WRONG,
            lambda: [b"", b"x", b"1,2\n3", b"\xff", b"1e999," * 4],
        ),
        t(
            "viewer scores",
            "s.npz",
            scores,
            runs.viewer("--scores", "FILE", "--names", "HERE/names.txt"),
            WRONG,
            lambda: seeds.evil_npz(["scores", "labels"]),
            zip_in,
        ),
        t(
            "viewer responses",
            "r.npz",
            lambda: [seeds.npz({"conv1": np.arange(12.0).reshape(4, 3)})],
            runs.viewer("--confusion", "HERE/m.npy", "--names", "HERE/names.txt", "--responses", "FILE"),
            WRONG,
            lambda: [*seeds.evil_npz(["conv1"]), *(seeds.npz({"conv1": values}) for values in EVIL_RESPONSES)],
            zip_in,
        ),
        t(
            "viewer names",
            "names.txt",
            lambda: [b"a\nb\nc\nd\n", codecs.BOM_UTF8 + b"a\nb\nc\nd\n"],
            runs.viewer("--confusion", "HERE/m.npy", "--names", "FILE"),
            WRONG,
            lambda: [b"", b"\xff\xfe", b"a"],
        ),
        t(
            "other run",
            "evaluation.json",
            lambda: [seeds.dumped(CONFUSION)],
            runs.other_run,
            WRONG,
            lambda: [*seeds.deep_json(), b"[]", b'{"confusion_last": 7}', b'{"confusion_last": [], "class_names": []}'],
            json_in,
        ),
        t(
            "responses",
            "r.json",
            lambda: [seeds.dumped({"shape": [4, 3], "scale": [1, 1, 1]})],
            runs.responses,
            WRONG,
            lambda: [
                *seeds.deep_json(),
                b"[]",
                b'{"shape": [1000000000000, 9], "scale": []}',
                b'{"shape": [-1, 2], "scale": [1, 1]}',
            ],
            json_in,
        ),
        t(
            "pseudo.csv",
            "pseudo.csv",
            lambda: [b"0\n-1\n1\n"],
            runs.column,
            WRONG,
            lambda: [b"x", b"9" * 30, b"9" * 5000, b"\xff", b"1.5"],
        ),
        t(
            "clustering",
            "c.npz",
            lambda: [seeds.npz(CLUSTERING)],
            runs.clustering,
            WRONG,
            lambda: seeds.evil_npz(list(CLUSTERING)),
            zip_in,
        ),
        t(
            "maps",
            "m.npz",
            lambda: [seeds.npz({"key": np.array("k"), "0": np.zeros((3, 2), np.float32), "-1": np.ones((3, 2))})],
            runs.maps,
            WRONG,
            list,  # what is damaged is made again
            zip_in,
        ),
        t(
            "predictions",
            "predictions.npz",
            lambda: [seeds.npz({name: np.arange(3) for name in ("labels", "predicted", "log_probabilities")})],
            runs.predictions,
            WRONG,
            lambda: seeds.evil_npz(["labels"]),
            zip_in,
        ),
        t(
            "npz",
            "a.npz",
            lambda: [seeds.npz({"a": np.arange(9.0)})],
            runs.any_npz,
            WRONG,
            lambda: [*seeds.evil_npz(["a"]), mutate.zipped([])],
            zip_in,
        ),
        t("npy", "a.npy", lambda: [seeds.npy(np.arange(9.0))], runs.any_npy, WRONG, seeds.evil_npy),
        t("tfrecord", "t.tfrecord", examples, runs.tfrecord, WRONG, evil_records, (mutate.records,)),
        t(
            "flags",
            "words",
            lambda: [words.encode() for words in COMMANDS],
            runs.command_line,
            (runs.Refused,),
            lambda: [
                b"fc --B=0",
                b"fc --lr nan",
                b"fc --B 1e3",
                b"train --levels x",
                b"triplet --margin x",
                b"fc --no-such",
                b"rnn --lstm-units 0",
            ],
        ),
    ]
