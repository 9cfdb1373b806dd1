"""The exporter's Python side: formats, refusals, and that what goes in comes out."""

import json
import subprocess
import sys

import numpy as np
import pytest

import datasets
from hierarchy_cnn_torch.data import tree_files
from hierarchy_cnn_torch.method import seriation, similarity, trees
from hierarchy_cnn_torch.viewer import export as export_module
from hierarchy_cnn_torch.viewer import pack
from hierarchy_cnn_torch.viewer.other_runs import view_of_other
from hierarchy_cnn_torch.viewer.view import View, scaled_bytes, triangle_bytes, write
from reproduction.compare.export import write_text
from reproduction.runtime.run_folder import REPO_ROOT, UserError
from tests import scripts
from tests.changing_pictures import add_pictures, write_pictures
from tests.hierarchy.browser import export_arguments, planted_files
from tests.hierarchy.viewer_page import read_page

L10 = [np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5])]


def export(*words):
    """Runs the exporter's main in this process: its start takes longer than most pages."""
    return scripts.run("hierarchy_cnn_torch.viewer", "export.py", *words, code=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k10")
    return folder, *planted_files(folder, 10, L10, [0.5, 0.35, 0.15], 60, 24)


def test_the_readmes_command_needs_only_a_matrix_and_names(files, tmp_path):
    folder, counts, _, _ = files
    command = [sys.executable, "-m", "hierarchy_cnn_torch.viewer.export"]
    command += ["--confusion", folder / "m.npy", "--names", folder / "names.txt", "--out", tmp_path / "view.html"]
    answer = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    meta, arrays = read_page(tmp_path / "view.html")
    assert meta["names"][3] == "class 003" and [e["label"] for e in meta["runs"][0]["epochs"]][-1] == "epoch 3"
    for at, matrix in enumerate(counts):
        back = np.zeros((10, 10), int)
        back[arrays[f"c0_{at}_row"], arrays[f"c0_{at}_col"]] = arrays[f"c0_{at}_n"]
        assert (back == matrix).all()


def test_names_and_matrix_with_a_byte_order_mark(tmp_path):
    (tmp_path / "m.csv").write_text("5,1,0\n2,7,1\n0,0,9\n", encoding="utf-8-sig")
    (tmp_path / "names.txt").write_text("a\nb\nc\n", encoding="utf-8-sig")
    answer = export("--confusion", tmp_path / "m.csv", "--names", tmp_path / "names.txt", "--out", tmp_path / "v.html")
    assert answer.returncode == 0, answer.stderr
    meta, arrays = read_page(tmp_path / "v.html")
    assert meta["names"] == ["a", "b", "c"] and arrays["c0_0_n"].tolist() == [5, 1, 2, 7, 1, 9]


def test_export_and_read_back_give_identical_arrays(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(0, 255, (30, 40), dtype=np.uint8),
        "b": rng.random(7),
        "c": np.arange(70000, dtype=np.uint32),
        "d": rng.random((5, 3)).astype(np.float32),
        "e": np.zeros(0, np.uint16),
        "f": np.array([-3, 4], np.int32),
    }
    meta = {"title": "</script><b>&", "names": ["</script>", "é"]}
    write_text(tmp_path / "p.html", pack.page(meta, arrays, {}))
    back_meta, back = read_page(tmp_path / "p.html")
    assert back_meta["names"] == meta["names"]
    assert back.keys() == arrays.keys()
    assert all(
        back[k].dtype == v.dtype and (back[k] == v).all() and back[k].shape == v.shape for k, v in arrays.items()
    )


def test_byte_maps():
    values = np.array([[0.0, 5, 2], [1, 5, 4], [0.5, 5, 3]])
    assert scaled_bytes(values).tolist() == [[0, 0, 0], [255, 0, 255], [128, 0, 128]]
    assert triangle_bytes(np.array([[1, -1, 0], [-1, 1, 1], [0, 1, 1.0]])).tolist() == [0, 128, 255]


def test_order_in_the_page_is_the_seriation(files, tmp_path):
    folder, counts, _, _ = files
    from hierarchy_cnn_torch.method.similarity import profile_distance

    tree = trees.tree_of(L10, [f"class {i:03d}" for i in range(10)])
    tree_files.save_tree(tmp_path / "tree.json", tree)
    answer = export(
        "--confusion",
        folder / "m.npy",
        "--names",
        folder / "names.txt",
        "--tree",
        tmp_path / "tree.json",
        "--out",
        tmp_path / "v.html",
    )
    assert answer.returncode == 0, answer.stderr
    meta, arrays = read_page(tmp_path / "v.html")
    assert (arrays["order"] == seriation.tree_order(tree, profile_distance(counts[-1]))).all()
    assert [len(level["groups"]) for level in meta["levels"]] == [2, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m.npy": -np.eye(10)}, "negative count"),
        ({"m.npy": np.eye(10) * 0.5}, "fractional count 0.5"),
        ({"m.npy": np.eye(9)}, "10 names for a confusion matrix of 9"),
        ({"m.npy": np.ones((10, 9))}, "a square of at least"),
        ({"names.txt": "a\nb\nc"}, "--scores: scores"),
        ({"images.npy": np.zeros((60, 3, 8, 8), np.uint8)}, "array.transpose(0, 2, 3, 1)"),
        ({"images.npy": np.zeros((60, 0, 8, 3), np.uint8)}, "uint8 (60, 0, 8, 3), expected uint8 [N, H, W, C]"),
        ({"images.npy": np.zeros((60, 8, 8, 3))}, "float64 (60, 8, 8, 3), expected uint8"),
        ({"m.npy": np.diag([2.0**60] * 10)}, "at most 9,007,199,254,740,992 (2^53)"),
        ({"m.npy": np.diag([2**63] * 10).astype(np.uint64)}, "at most 9,007,199,254,740,992 (2^53)"),
        ({"images.npy": np.zeros((3, 8, 8, 3), np.uint8)}, "--images: uint8"),
        ({"m.npy": np.eye(10, dtype=int) * 7}, "do not give the counts"),
        ({"m.npy": "text"}, "not a readable array"),
    ],
)
@pytest.mark.filterwarnings("error")  # a process would print them as further lines
def test_bad_input_is_one_line_and_exit_code_2(files, tmp_path, change, message):
    folder = files[0]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, value in change.items():
        if isinstance(value, str):
            (tmp_path / name).write_text(value)
        else:
            np.save(tmp_path / name, value)
    answer = export(*export_arguments(tmp_path, tmp_path / "view.html"))
    assert answer.returncode == 2 and message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1 and not (tmp_path / "view.html").exists()


@pytest.mark.parametrize(
    "values", [np.full((10, 4), "a"), np.full((10, 4), np.inf), np.ones((10, 4), complex), np.ones((10, 0))]
)
def test_responses_that_are_no_finite_numbers_are_one_line(files, tmp_path, values):
    np.savez(tmp_path / "r.npz", conv1=values)
    words = ["--confusion", files[0] / "m.npy", "--names", files[0] / "names.txt", "--out", tmp_path / "v.html"]
    args = export_module.parser().parse_args([*map(str, words), "--responses", str(tmp_path / "r.npz")])
    message = r"conv1 is .* \(10, \d\), expected numbers .*\[10, channels\] or \[epochs, 10, channels\]"
    with pytest.raises(UserError, match=message):
        export_module.from_files(args)


def from_matrix(folder, counts, *more):
    """The page's settings and arrays of a matrix alone."""
    np.save(folder / "m.npy", counts)
    (folder / "n.txt").write_text("\n".join(f"class {i}" for i in range(len(counts))))
    words = ["--confusion", folder / "m.npy", "--names", folder / "n.txt", "--out", folder / "v.html", *more]
    view = export_module.from_files(export_module.parser().parse_args([str(word) for word in words]))
    write(view, folder / "v.html")
    return read_page(folder / "v.html")


@pytest.mark.parametrize("kind", ["u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", ">i8"])
def test_counts_of_every_type_are_shown_as_they_are(tmp_path, kind):
    kind = np.dtype(kind)
    largest = np.iinfo(kind).max if kind.kind in "iu" else np.finfo(kind).max
    counts = np.diag([min(57 * 10**9, int(largest))] * 6).astype(kind)
    arrays = from_matrix(tmp_path, counts)[1]
    assert [int(n) for n in arrays["c0_0_n"]] == [int(counts[0, 0])] * 6


def test_levels_that_do_not_exist_are_said(tmp_path):
    perfect = np.diag([50] * 6)
    with pytest.raises(UserError, match="--levels 2,3: no level at all, since classes lie equally far"):
        from_matrix(tmp_path, perfect, "--levels", "2,3")
    assert from_matrix(tmp_path, perfect)[0]["levels"] == []  # nobody asked
    assert similarity.lacking([np.array([0, 0, 1])], [2]) == ""
    assert similarity.lacking([np.array([0, 0, 1])], [2, 5]).startswith("--levels 2,5: only levels of 2 groups, since")


def test_thumbnails_without_images_and_a_missing_names_file(files, tmp_path):
    folder = files[0]
    words = export_arguments(folder, tmp_path / "v.html", images=False)
    assert "no images were given" in export(*words, "--thumbs", "embed").stderr
    assert "--names is missing" in export("--confusion", folder / "m.npy", "--out", tmp_path / "v.html").stderr
    assert "give --run, or --confusion" in export("--out", tmp_path / "v.html").stderr


@pytest.mark.parametrize(("name", "link"), [("v", "v_thumbs"), ('5 %25#"\udce9', "5%20%2525%23%22%E9_thumbs")])
def test_thumbs_in_a_folder(files, tmp_path, name, link):
    folder = files[0]
    answer = export(*export_arguments(folder, tmp_path / f"{name}.html"), "--thumbs", "folder")
    assert answer.returncode == 0, answer.stderr
    meta, arrays = read_page(tmp_path / f"{name}.html")
    assert meta["samples"]["sprites"] == [{"file": f"{link}/sprite_0.jpg"}]
    assert (tmp_path / f"{name}_thumbs" / "sprite_0.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert (arrays["sample_thumb"] == np.arange(len(arrays["sample_id"]))).all()


def test_the_size_cap_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(pack, "LARGEST_BYTES", 20_000)
    names = [str(i) for i in range(10)]
    tree = trees.tree_of(L10, names)
    view = View("t", names, tree, np.ones((10, 10)) - np.eye(10), [("a", [("last", np.eye(10, dtype=int))])])
    with pytest.raises(UserError, match="at most 0 MB.*--thumbs folder or none"):
        write(view, tmp_path / "v.html")


def test_no_third_party_script_and_no_address_in_the_page(files, tmp_path):
    folder = files[0]
    export("--confusion", folder / "m.npy", "--names", folder / "names.txt", "--out", tmp_path / "v.html")
    text = (tmp_path / "v.html").read_text()
    assert "http://" not in text and "https://" not in text and "import " not in text.split('<script type="module">')[1]


@pytest.mark.parametrize("size", [2, 3, 4, 10, 100])
def test_runs_of_other_papers_with_any_number_of_classes_open(tmp_path, size):
    counts = np.eye(size, dtype=int) * 9 + np.arange(size * size).reshape(size, size) % 3
    content = {"class_names": [f"class {i}" for i in range(size)], "confusion_last": counts.tolist()}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    view = view_of_other(tmp_path, "", None, [])
    assert len(view.names) == size and len(trees.levels_of(view.tree)) <= 3


def test_runs_of_other_papers_open(files, tmp_path):
    _, counts, _, _ = files
    (tmp_path / "sub").mkdir()
    names = [f"class {i}" for i in range(10)]
    found = {"class_names": names, "confusion_last": counts[-1].tolist(), "confusion_best": counts[0].tolist()}
    (tmp_path / "sub" / "evaluation.json").write_text(json.dumps(found))
    answer = export("--run", tmp_path / "sub", "--out", tmp_path / "a.html")
    assert answer.returncode == 0, answer.stderr
    meta, _ = read_page(tmp_path / "a.html")
    assert [e["label"] for e in meta["runs"][0]["epochs"]] == ["best epoch", "last"]
    answer = export("--run", tmp_path / "sub", "--compare", "A1", "--out", tmp_path / "a.html")
    assert answer.returncode == 2 and "--compare: not used with --run" in answer.stderr
    data = datasets.load("mnist5k")
    logits = np.eye(10)[np.asarray(data.test_labels)] * 5 + np.random.default_rng(0).normal(size=(1000, 10))
    (tmp_path / "c2s").mkdir()
    np.save(tmp_path / "c2s" / "fc-logits-test.npy", logits.astype(np.float32))
    (tmp_path / "c2s" / "config.json").write_text(json.dumps({"dataset": "mnist5k"}))
    answer = export("--run", tmp_path / "c2s", "--out", tmp_path / "b.html")
    assert answer.returncode == 0, answer.stderr
    meta, arrays = read_page(tmp_path / "b.html")
    assert arrays["c0_0_n"].sum() == 1000 and meta["samples"]["sprites"]
    (tmp_path / "none").mkdir()
    answer = export("--run", tmp_path / "none", "--out", tmp_path / "c.html")
    assert answer.returncode == 2 and "--stage flat" in answer.stderr


def test_a_comparison_of_other_images_is_refused(files, tmp_path):
    folder, counts, _, _ = files
    words = ["--confusion", folder / "m.npy", "--names", folder / "names.txt", "--out", tmp_path / "v.html"]
    words += ["--compare", tmp_path / "other.npy"]
    args = export_module.parser().parse_args([str(word) for word in words])
    other = np.stack(counts)
    other[1, 4] *= 2
    for stack, message in (
        (other, "--compare: epoch 2: 120 images of class 004 instead of 60; expected counts of the same test images"),
        (2 * other[0], "--compare: epoch 1: 120 images of class 000 instead of 60"),
    ):
        np.save(tmp_path / "other.npy", stack)
        with pytest.raises(UserError, match=message):
            export_module.from_files(args)
    np.save(tmp_path / "other.npy", other[0])
    assert [len(epochs) for _, epochs in export_module.from_files(args).runs] == [3, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--run seed0 --compare A9", "--compare A9: no finished variant of seed0, which has A0, A1"),
        ("--run seed0 --compare A2", "--compare A2: no finished variant"),
        ("--run seed0 --confusion m.npy --tree t.json", "--confusion, --tree: not used with --run seed0; leave out"),
        ("--run seed0 --levels 2", "--levels: not used with --run seed0; leave out one or the other"),
        ("--run sub --compare A1", "--compare: not used with --run sub, which holds no A0; leave out one or the other"),
        ("--run sub --scores s.npz", "--scores: not used with --run sub, which holds no A0"),
        ("--confusion m.npy --data-dir d", "--data-dir: needs --run, whose images it holds"),
        ("--run sub --levels 2", ""),
        ("--run seed0 --compare A1 --data-dir d --title t --thumbs none", ""),
        ("--confusion m.npy --compare m.npy", ""),
    ],
)
def test_flags_that_a_run_does_not_use_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("seed0/A0", "seed0/A1", "seed0/A2", "sub"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("A0", "A1"):
        (tmp_path / "seed0" / name / "DONE").touch()
    args = export_module.parser().parse_args([*words.split(), "--out", "v.html"])
    if not message:
        return export_module.check_run_flags(args)
    with pytest.raises(UserError) as refused:
        export_module.check_run_flags(args)
    assert message in str(refused.value)


def class2str_run(folder, images, test_labels, **config):
    """Right scores of these labels, as stage 1 of class2str writes them."""
    folder.mkdir()
    np.save(folder / "fc-logits-test.npy", np.eye(2, dtype=np.float32)[test_labels] * 5)
    config = {"dataset": f"folder:{images}", "data_dir": str(folder.parent / "data"), "train_images": 0} | config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_class2str_run_shows_the_images_that_it_scored(tmp_path):
    """With --hold-out a fifth of the training images; here of the size of the test split."""
    images = tmp_path / "set"
    for part, count, first in (("train", 25, 0), ("test", 5, 100)):
        write_pictures(images / part, first=first, count=count)
    data = datasets.load(f"folder:{images}", tmp_path / "data")
    held = datasets.hold_out(data, len(data.train_labels) // 5)
    assert held.test_images.shape == data.test_images.shape and (held.test_images != data.test_images).any()
    for name, scored, more in (("a", data, {}), ("b", held, {"hold_out": "stratified"})):
        view = view_of_other(class2str_run(tmp_path / name, images, scored.test_labels, **more), "", None, [])
        assert (view.samples.images == scored.test_images[view.samples.ids]).all()
        assert (view.runs[0][1][0][1] == np.diag(np.bincount(scored.test_labels))).all()
    for name, more, message in (
        ("c", {"hold_out": "stratified", "train_images": 40}, "--hold-out and --train-images; the viewer cannot"),
        ("d", {"hold_out": True}, "--hold-out and an earlier way of holding out; the viewer cannot"),
    ):
        with pytest.raises(UserError, match=message):
            view_of_other(class2str_run(tmp_path / name, images, held.test_labels, **more), "", None, [])
    add_pictures(images / "train")
    with pytest.raises(UserError, match="holds a run on other data .*--overwrite"):
        view_of_other(tmp_path / "a", "", None, [])
