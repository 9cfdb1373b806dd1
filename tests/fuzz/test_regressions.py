"""What the fuzzing found, one small input each; `seeds` and the targets plant the rest of them in every run."""

from __future__ import annotations

import io
import json
import resource
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import aircraft, cars, download, imagenet, lists, manifest, matfile, nabirds
from datasets.core import DatasetError
from finegrained_torch.training import setting
from hierarchy_cnn_torch.viewer import export
from reproduction.compare import tables
from reproduction.page import curves
from reproduction.runtime import arrays, metrics_log, torch_runtime
from reproduction.runtime import run_folder as runs
from reproduction.runtime.run_folder import UserError
from tests.fuzz import data_targets, end_targets, framework_targets, mutate, run_targets, seeds


def refused(error, read, *arguments):
    with pytest.raises(error) as raised:
        read(*arguments)
    assert "\n" not in str(raised.value)


def test_cells_that_are_not_there_do_not_end_the_process(tmp_path):
    """scipy.io.loadmat crashed on cell and struct arrays of 2^30 elements in a file of 200 bytes."""
    for body in seeds.evil_mat():
        (tmp_path / "cars_annos.mat").write_bytes(body)
        refused(DatasetError, cars.derive, tmp_path)


@pytest.mark.parametrize("compressed", [True, False])
def test_nested_tables_are_read_as_scipy_reads_them(tmp_path, compressed):
    from scipy.io import loadmat

    path = tmp_path / "t.mat"
    struct = np.array([("é.jpg", 3, 1), ("b c.jpg", 250, 0)], [("name", "O"), ("class", "O"), ("test", "O")])
    cells = np.array(["one", "", "two words"], object)
    path.write_bytes(seeds.mat({"s": struct, "c": cells, "n": np.array([[1.5], [2.5]]), "e": np.empty(0)}, compressed))
    expected = loadmat(path, squeeze_me=True)
    found = matfile.table(path, "s")
    assert found["name"] == [str(name) for name in expected["s"]["name"]]
    assert [int(value.item()) for value in found["class"]] == expected["s"]["class"].tolist()
    assert [text if isinstance(text, str) else "" for text in matfile.table(path, "c")] == ["one", "", "two words"]
    assert matfile.table(path, "n").tolist() == [1.5, 2.5] and matfile.table(path, "e").size == 0


@pytest.mark.parametrize("label", ["9" * 19, "9" * 25, "9" * 5000, "-" + "9" * 19])
def test_labels_that_fit_no_integer(tmp_path, label):
    path = tmp_path / "a.csv"
    path.write_text(f",label,file_name\n0,{label},a.jpg\n", encoding="utf-8")
    refused(DatasetError, lists.read_csv, path)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "..", "", "a\\\\b"])
def test_the_manifest_names_no_file_elsewhere(tmp_path, name):
    path = tmp_path / "manifest.toml"
    path.write_bytes(data_targets.ENTRY.replace(b"a.gz", name.encode()))
    refused(DatasetError, manifest._read, path)


@pytest.mark.parametrize("body", ["[]", "7", "null", "[" * 100_000, "{", '"a"'])
def test_stamps_and_configurations_of_another_kind(tmp_path, body):
    for name in ("config.json", "DONE"):
        (tmp_path / "config.json").unlink(missing_ok=True)
        (tmp_path / name).write_text(body, encoding="utf-8")
        with pytest.raises(UserError), runs.open_run(tmp_path, {"lr": 1}):
            pass


@pytest.mark.parametrize("name", ["\n", "a\r\nb", "\x1b[2J", "\u2028", "\ud800"])
def test_a_setting_whose_name_no_terminal_prints_is_one_line(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({name: False}), encoding="utf-8")
    with pytest.raises(UserError, match="other flags") as raised, runs.open_run(tmp_path, {}):
        pass
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("line", ["7", "{}", '{"step": "a"}', '{"step": null}', "[" * 100_000])
def test_metrics_without_their_step(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n", encoding="utf-8")
    refused(UserError, metrics_log.read_metrics, tmp_path)


@pytest.mark.parametrize(
    "body", [b"", b"text", b"PK\x03\x04", seeds.npz({"a": np.arange(9)})[:-9], mutate.zipped([("a.npy", b"")])]
)
def test_archives_that_are_none(tmp_path, body):
    path = tmp_path / "a.npz"
    path.write_bytes(body)
    refused(UserError, arrays.read_npz, path, ("a",))
    refused(UserError, arrays.read_npz, tmp_path / "none.npz")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_text_of_characters_that_do_not_exist(tmp_path, order):
    path = tmp_path / "a.npz"
    text = np.array("key", f"{order}U3")
    path.write_bytes(seeds.npz({"key": text}))
    assert arrays.read_npz(path)["key"] == "key"
    path.write_bytes(seeds.npz({"key": np.frombuffer(b"\xff" * 12, f"{order}U3")}))
    refused(UserError, arrays.read_npz, path)


def test_an_image_of_an_impossible_name(tmp_path):
    path = tmp_path / "l.json"
    path.write_bytes(seeds.dumped({"paths": ["9" * 5000], "labels": [0]}))
    refused(DatasetError, imagenet.read, path, tmp_path)


def test_a_download_note_of_brackets_is_no_note(tmp_path):
    (tmp_path / "a").write_bytes(b"half")
    (tmp_path / "a.json").write_text("[" * 100_000, encoding="utf-8")
    assert "Range" not in download.RangeDownloader(tmp_path / "a", 100, False)._headers("http://x/a")


@pytest.mark.parametrize("step", [0.0, 1e18, 9223372036854775808.0, 1e299])
def test_a_curve_of_one_enormous_step(step):
    assert "nan" not in curves.chart("loss", {0: [(step, 1.0), (step, 2.0)]})


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(mutate.zipped([("a.npy", seeds.header("(200000000,)", "'|u1'") + bytes(200_000_000))], 8))
    monkeypatch.setattr(arrays, "MOST_BYTES", 100_000_000)
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(UserError, arrays.read_npz, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_weight_that_changed_on_the_disk_is_seen(tmp_path):
    """torch.load reads past the checksums in its own files; a flipped bit in a weight came back as another weight."""
    path = tmp_path / "c.pt"
    torch_runtime.write_checkpoint(path, {"w": torch.arange(64.0)})
    whole = path.read_bytes()
    at = whole.index(torch.arange(64.0).numpy().tobytes())
    for place in range(at, at + 256, 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        refused(UserError, torch_runtime.read_checkpoint, path)
    path.write_bytes(whole)
    assert torch.equal(torch_runtime.read_checkpoint(path)["w"], torch.arange(64.0))


@pytest.mark.parametrize("content", [[1], {"model": {}}, "text", torch.ones(2)])
def test_a_newest_state_of_another_kind_falls_back_to_the_one_before(tmp_path, content):
    good = {"model": {}, "step": 1}
    torch_runtime.save_state(tmp_path, 1, good)
    torch_runtime.write_checkpoint(tmp_path / "state-0000000002.pt", content)
    assert torch_runtime.load_state(tmp_path, needs=("model", "step")) == good


@pytest.mark.parametrize("damage", ["analysis/analysis.json", "A0/tree.json", "A0/curves.npz", "A0/config.json"])
def test_a_run_whose_files_do_not_fit_each_other_is_one_line_in_the_viewer(tmp_path, damage):
    files = {
        "analysis/analysis.json": {**end_targets.ANALYSIS, "mantel": {"fc9": {"x": 7}}},
        "A0/tree.json": {"name": "all"},
        "A0/config.json": {"dataset": "x"},
    }
    body = seeds.dumped(files[damage]) if damage in files else seeds.npz({"curve": np.full((1, 9), 99)})
    (tmp_path / "in").write_bytes(body)
    refused(UserError, end_targets.viewer_of(damage), tmp_path / "in")


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_a_statistic_without_end_is_one_line_in_the_viewer(tmp_path, value):
    mantel = {"conv1": {"1": {"rho": value}}}
    (tmp_path / "in").write_bytes(seeds.dumped({**end_targets.ANALYSIS, "mantel": mantel}))
    refused(UserError, end_targets.viewer_of("analysis/analysis.json"), tmp_path / "in")


def test_a_summary_of_a_damaged_analysis_is_one_line(tmp_path):
    (tmp_path / "in").write_bytes(seeds.dumped({"seed": 0, "T1": {"A0": 7}}))
    refused(UserError, end_targets.summary_of("analysis/analysis.json"), tmp_path / "in")


def test_a_line_of_pixels_is_not_made_as_long_as_it_is_wide(tmp_path):
    """predict.py brought the shorter side to 32 pixels first: one pixel by 60 million became 6 gigabytes."""
    Image.new("L", (1 << 20, 1)).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end_targets.picture(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_branch_where_there_is_no_layer_is_one_line(tmp_path):
    torch.save({"heads.conv9.5.bias": torch.ones(2)}, tmp_path / "n.pt")
    refused(UserError, end_targets.evaluated, tmp_path / "n.pt")


@pytest.mark.parametrize("names", [["a"], [None] * 10, 7])
def test_a_checkpoint_whose_classes_have_no_names_is_one_line(tmp_path, names):
    content = torch.load(io.BytesIO(framework_targets._subclass()[0]), weights_only=True)
    torch.save({**content, "class_names": names}, tmp_path / "n.pt")
    refused(UserError, end_targets.predicted, tmp_path / "n.pt")


@pytest.mark.parametrize("character", ["\U0010f0c6", "\U0010ffff", "\u2028", "\u0660"])
def test_pseudo_labels_of_any_characters_do_not_end_the_process(tmp_path, character):
    """np.loadtxt looks whole numbers' digits up in a table that ends before the last characters do."""
    path = tmp_path / "pseudo.csv"
    path.write_text(f"0\n-1\n1{character}\n1\n\n", encoding="utf-8")
    with suppress(UserError):
        assert len(setting.read_labels(path, np.array([0, 0, 1, 1]))) == 4


def _table(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "TABLES", path.parent)
        return tables.load_tables.__wrapped__()["class2str"].paper.id


# reader -> name of the file and its text, as somebody may write it by hand
WRITTEN_BY_HAND = {
    lists.read_csv: ("a.csv", ",label,file_name\n0,3,a.jpg\n"),
    nabirds.table: ("images.txt", "1 a.jpg\n"),
    aircraft.read_split: ("images_variant_test.txt", "1514522 F-16A/B\n"),
    lambda path: imagenet.read(path, path.parent): ("l.json", '{"paths": ["l.json"], "labels": [0]}'),
    runs.read_json: ("tree.json", '{"id": 1}'),
    lambda path: setting.read_labels(path, np.array([0, 1])): ("pseudo.csv", "0\n1\n"),
    setting.read_column: ("mask.csv", "0\n1\n"),
    lambda path: export._array(str(path), "--confusion"): ("m.csv", "5,1\n2,7\n"),
    _table: ("class2str.toml", (tables.TABLES / "class2str.toml").read_text(encoding="utf-8")),
    manifest._read.__wrapped__: ("manifest.toml", manifest.PATH.read_text(encoding="utf-8")),
}


@pytest.mark.parametrize("read", WRITTEN_BY_HAND)
def test_a_byte_order_mark_changes_nothing(tmp_path, read):
    """Windows editors and Excel put one before the text."""
    name, text = WRITTEN_BY_HAND[read]
    (tmp_path / name).write_text(text, encoding="utf-8")
    plain = read(tmp_path / name)
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert str(read(tmp_path / name)) == str(plain)


def test_a_subclass_map_that_is_one_number_is_one_line(tmp_path):
    """It has no length."""
    (tmp_path / "m.npz").write_bytes(seeds.npz({"subclass2class": np.array(True)}))
    refused(UserError, framework_targets._map, tmp_path / "m.npz")


@pytest.mark.parametrize("change", [{"labels": np.array(0)}, {"scores": np.array(0)}, {"scores": np.full((5, 4), "a")}])
def test_scores_of_another_kind_are_one_line_in_the_viewer(tmp_path, change):
    (tmp_path / "s.npz").write_bytes(seeds.npz({**run_targets.SCORES, **change}))
    refused(UserError, run_targets.runs.viewer("--scores", "FILE", "--names", "HERE/names.txt"), tmp_path / "s.npz")


@pytest.mark.parametrize("name", list(end_targets.PROFILES))
def test_profiles_that_are_text_are_one_line_in_the_viewer(tmp_path, name):
    (tmp_path / "in").write_bytes(seeds.npz({**end_targets.PROFILES, name: np.full((1, 3), "")}))
    refused(UserError, end_targets.viewer_of("analysis/profiles.npz"), tmp_path / "in")
