"""The readers of run folders, records, tables, trees and clusterings that need no framework, and the command lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401 - makes its folder and cache at import, which is no fault of a reader
import numpy as np

from datasets import identity
from reproduction.compare import collect, export, tables
from reproduction.compare import comparison as compare
from reproduction.page import curves, gallery
from reproduction.runtime import arrays, metrics_log, record, run_data
from reproduction.runtime import run_folder as runs

NAMES = ["a", "b", "c", "d"]


def json_file(path: Path) -> None:
    """Any JSON file of a run."""
    assert isinstance(runs.read_json(path, "name"), dict)


def run_config(path: Path) -> None:
    """config.json of a run folder that is opened again."""
    with runs.open_run(path.parent, {"lr": 0.1}):
        pass


def run_done(path: Path) -> None:
    """The DONE stamp of a run folder."""
    if run_data.already_done(path.parent, {"lr": 0.1}):
        runs.Run(path.parent, {}, True).is_finished()
    with runs.open_run(path.parent, {"lr": 0.1}):
        pass


def changing_folder(path: Path) -> None:
    """A folder that changes between two calls: each pair of bytes is one change and the file that it strikes.

    A run goes on exactly if names and contents are what they were, whatever happened to the times.
    """
    folder, script = path.parent / "set", path.parent / "run"
    for earlier in (folder, script):
        shutil.rmtree(earlier, ignore_errors=True)
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for n in range(4):
        (folder / "a" / f"{n}.png").write_bytes(bytes([n]) * 4)

    def names_and_contents() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in identity.files_of(f"folder:{folder}")}

    def goes_on() -> bool:
        config = {"dataset": f"folder:{folder}", "data_dir": str(path.parent)}
        with runs.open_run(script, config) as run, contextlib.redirect_stdout(io.StringIO()):
            seen = run_data.look_at(config)
            files = identity.files_of(config["dataset"])
            try:
                run_data.is_finished(run, seen, lambda: {"set": identity.content_digest(files, folder)})
            except runs.UserError:
                return False
            run.finish({})
        return True

    goes_on()
    time.sleep(0.01)  # kernels keep times in steps of up to 10 ms
    before, changes = names_and_contents(), path.read_bytes()[:16]
    for kind, which in zip(changes[::2], changes[1::2], strict=False):
        file = folder / "a" / f"{which % 6}.png"
        if kind % 4 == 0:
            file.write_bytes(bytes([which % 6]) * 4)  # the first content, at another time
        elif kind % 4 == 1:
            file.unlink(missing_ok=True)
        elif kind % 4 == 2:
            file.write_bytes(bytes([which]) * 4)
        elif file.exists():
            os.utime(file, ns=(kind, which))
    after = names_and_contents()
    assert goes_on() == (not after or after == before)  # a finished run needs its data no more


def run_data_note(path: Path) -> None:
    """data.json of a run folder."""
    (path.parent / "config.json").write_text("{}", encoding="utf-8")
    run_data.check_data(path.parent, {"set": "0"}, "--overwrite")
    run_data.differing(path.parent, {})


def metrics(path: Path) -> None:
    """metrics.jsonl as a resumed run reads it."""
    assert all(isinstance(line["step"], int) for line in metrics_log.read_metrics(path.parent))


def curve(path: Path) -> None:
    """metrics.jsonl as the report draws it."""
    log = {name: series for name, series in curves.read_log(path).items() if series}
    for name, series in log.items():
        assert "nan" not in curves.chart(name, {0: series}).lower().replace(name.lower(), "")


def one_record(path: Path) -> None:
    """record.json by itself."""
    record.load_record(path)


def compared(path: Path) -> None:
    """record.json through everything that `make compare` and `make report` do with it."""
    found = collect.collect([path.parent])
    comparisons = compare.compare(list(tables.load_tables().values()), found)
    export.csv_text(comparisons), export.markdown(comparisons), export.latex(comparisons)
    for group in found.rows.values():
        gallery.gallery(group, path.parent / "page.html", gallery.Budget(1 << 20))
        curves.row_charts(group, ())


def table(path: Path) -> None:
    """A paper's published numbers."""
    list(tables.parse_paper(path.read_bytes().decode("utf-8", "surrogateescape"), path.name).numbers)


def artefact(path: Path) -> None:
    """A picture or text in the report."""
    for kind in ("image", "json", "text"):
        item = record.Artefact(kind=kind, path=path.name, title="t")
        html, _ = gallery.artefact(path.parent, item, path.parent / "page.html", gallery.Budget(1 << 20))
        assert "<script" not in html.lower()


def tree(path: Path) -> None:
    """A tree that somebody edited."""
    from hierarchy_cnn_torch.data.tree_files import load_tree
    from hierarchy_cnn_torch.method import trees

    found = load_tree(path, NAMES)
    for level in trees.levels_of(found):
        assert level.shape == (len(NAMES),)


def viewer(*flags: str) -> Callable[[Path], None]:
    """The viewer's import; `FILE` stands for the damaged file."""

    def read(path: Path) -> None:
        from hierarchy_cnn_torch.viewer import export as viewer_export

        others = {"names.txt": "\n".join(NAMES).encode(), "m.npy": _npy(np.eye(4, dtype=np.int64) * 9)}
        for name, body in others.items():
            (path.parent / name).write_bytes(body) if name != path.name else None
        words = [word.replace("FILE", str(path)).replace("HERE", str(path.parent)) for word in flags]
        viewer_export.from_files(viewer_export.parser().parse_args([*words, "--out", str(path.parent / "view.html")]))

    return read


def _npy(array: np.ndarray) -> bytes:
    from tests.fuzz.seeds import npy

    return npy(array)


def other_run(path: Path) -> None:
    """The confusions of another paper's run."""
    from hierarchy_cnn_torch.viewer.other_runs import view_of_other

    view_of_other(path.parent, "t", None, [2])


def responses(path: Path) -> None:
    """What the response file says of itself; the matrix next to it is whole."""
    from hierarchy_cnn_torch.report.response_file import open_responses

    (path.parent / "r.f16").write_bytes(np.zeros((4, 3), np.float16).tobytes())
    data, scale = open_responses(path.with_suffix(""))
    assert data.shape[1] == len(scale)


def column(path: Path) -> None:
    """A column of whole numbers of a clustering."""
    from finegrained_torch.training.setting import read_column

    assert read_column(path).dtype == np.int64


def clustering(path: Path) -> None:
    """clustering.npz."""
    from finegrained_torch.training.cluster_files import ARRAYS

    arrays.read_npz(path, ARRAYS)


def maps(path: Path) -> None:
    """The kept result of one class, which is read as the kept 2-D maps are."""
    from finegrained_torch.training import cluster_jobs

    cluster_jobs.read_stored(path, "k")


def predictions(path: Path) -> None:
    """predictions.npz of a finished training, as the report reads it."""
    arrays.read_npz(path, ("labels", "predicted"))


def any_npz(path: Path) -> None:
    """The reader that every run file goes through."""
    arrays.read_npz(path, ("a",))


def any_npy(path: Path) -> None:
    """The same for one array."""
    arrays.read_npy(path)


def tfrecord(path: Path) -> None:
    """The frames and messages of YouTube-8M, without the loader."""
    from reproduction.runtime.run_folder import UserError
    from subclass_torch.yt8m import tfrecord as reader

    for _, payload in reader.records(path):
        try:
            reader.parse_example(payload)
        except ValueError as error:
            raise UserError(str(error)) from None


def downloaded(path: Path) -> None:
    """The note next to a partial download."""
    from datasets.download import RangeDownloader

    loader = RangeDownloader(path.with_suffix(""), 100, True)
    path.with_suffix("").write_bytes(b"half")
    assert all(isinstance(value, str) for value in loader._headers("http://x/y").values())


@cache
def _parsers() -> dict[str, Callable[[list[str]], Any]]:
    """Every script's command line, by a short name."""
    from class2str_tf import flags as c2s
    from finegrained_torch import flags as fgl
    from hierarchy_cnn_torch import flags as hcn
    from reproduction.launch.sweep import parser as sweep
    from reproduction.runtime.flags import finish_parsing
    from subclass_torch import flags as sdn
    from subclass_torch.yt8m import flags as yt8m_flags
    from triplet_tf.config import base_config

    return {
        "fc": lambda words: c2s.parse_fc(c2s.fc_parser("x"), words),
        "rnn": lambda words: c2s.parse_rnn(c2s.rnn_parser("x", "cifar10", "vgg"), words),
        "notebook": sdn.parse,
        "yt8m": yt8m_flags.parse,
        "pipeline": fgl.parse_pipeline,
        "main": fgl.parse_main,
        "triplet": lambda words: base_config.parse(base_config.training_parser(), words),
        "train": lambda words: finish_parsing(hcn.train_parser(), hcn.resolve_train, words),
        "analyze": lambda words: finish_parsing(hcn.analyze_parser(), hcn.resolve_analyze, words),
        "sweep": lambda words: sweep().parse_args(words),
    }


class Refused(Exception):
    """The documented end of a bad command line: exit code 2 and one line."""


def command_line(path: Path) -> None:
    """`script flags ...` in the file; what is no text cannot come from a shell."""
    text = path.read_bytes().decode("utf-8", "surrogateescape").replace("\0", "")
    try:
        words = shlex.split(text)
    except ValueError:
        return
    script, words = (words[0], words[1:]) if words and words[0] in _parsers() else ("fc", words)
    with (
        open(os.devnull, "w", errors="backslashreplace", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        try:
            json.dumps(_parsers()[script](words), default=str)
        except SystemExit as end:
            if end.code not in (0, None):
                assert end.code == 2, end.code
                raise Refused from None
