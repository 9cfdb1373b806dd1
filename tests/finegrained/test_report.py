"""`--stage report` on run folders that were made without training: every number in it follows from the files."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from finegrained_torch import flags as tables
from finegrained_torch import plots
from finegrained_torch.method.agreement import between_seeds
from finegrained_torch.training import report, stages
from finegrained_torch.training.setting import Setting
from finegrained_torch.training.stability import compare_seeds
from reproduction.runtime.record import load_record
from reproduction.runtime.run_folder import UserError
from tests.changing_pictures import write_pictures

from . import toy_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds; the Markdown report and the page of the first."""
    folder = toy_runs.make(tmp_path_factory.mktemp("runs"))
    path = report.write_report(folder)
    return folder, path.read_text(), (folder / "report.html").read_text()


def correct(folder, variant):
    with np.load(folder / toy_runs.FOLDERS[variant][1] / "predictions.npz") as stored:
        return stored["labels"] == stored["predicted"]


def section(text, title):
    return text.partition(f"### {title}\n")[2].partition("\n#")[0]


def lines(text, *cells):
    """The cells of the table lines that begin with `cells`."""
    start = "".join(f"| {cell} " for cell in cells) + "|"
    found = [line for line in text.splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_every_row_stands_with_mean_and_spread(made):
    folder, text, _ = made
    for variant in toy_runs.FOLDERS:
        ours = [100 * correct(folder.parent / f"seed{seed}", variant).mean() for seed in (42, 43, 44)]
        row = tables.row_name("mnist5k-cpu", variant)
        expected = f"{np.mean(ours):.2f} ± {np.std(ours, ddof=1):.2f} (3)"
        assert any(expected in cell for cells in lines(text, row) for cell in cells), row
    trained = section(text, "What each row trained on")
    assert lines(trained, "mnist5k-cpu")[0][1:] == ["-", "0.05", "2", "180"]
    assert lines(trained, "mnist5k-cpu-ft")[0][1:] == ["10.0", "0.05", "2", "180"]
    order = [tables.row_name("mnist5k-cpu", name) for name in tables.ordered(list(toy_runs.FOLDERS))]
    printed = [line.split(" | ")[0].removeprefix("| ") for line in trained.splitlines() if "mnist5k" in line]
    assert sorted(printed) == sorted(order)


def test_mcnemar_lines_follow_from_the_predictions(made):
    folder, text, page = made
    table = section(text, "Row against row, image by image")
    (cells,) = lines(table, "mnist5k-cpu-ft", "mnist5k-cpu")
    assert "seed 42 | seed 43 | seed 44" in table
    for seed, cell in zip((42, 43, 44), cells[2:], strict=True):
        a, b = (correct(folder.parent / f"seed{seed}", name) for name in ("ft", ""))
        only_a, only_b, p = re.fullmatch(r"(\d+) : (\d+), p = (\S+)", cell).groups()
        assert (int(only_a), int(only_b)) == (np.sum(a & ~b), np.sum(b & ~a)) and 0 <= float(p) <= 1
        assert cell in page
    base = "mnist5k-cpu"
    for a, b in (("mh09", "ft"), ("ft", "ft-random"), ("ft-true", "ft")):
        assert len(lines(table, f"{base}-{a}", f"{base}-{b}")) == 1
    assert len(lines(table, f"{base}-ft-random", base)) == 1 and not lines(table, base, base)


def test_claims_are_answered_with_numbers(made):
    _, text, _ = made
    claims = {cells[0].split(":")[0]: cells for cells in lines(text.partition("### Claims")[2]) if "FGL-" in cells[0]}
    assert len(claims["FGL-C1"]) == 7 and "points" in claims["FGL-C1"][3] and claims["FGL-C1"][5] == "3"
    assert claims["FGL-C1"][6] == "not testable: no minimum accuracy is set for this data set"
    assert claims["FGL-B1"][3].startswith("+") and claims["FGL-B2"][3].startswith("+")
    assert all(claims[f"FGL-{name}"][6].endswith("(few seeds)") for name in ("B1", "B2"))
    random, pixels = (float(re.match(r"[+-]?[0-9.]+", claims[f"FGL-C5-{name}"][3])[0]) for name in ("random", "pixels"))
    assert random > 0.2 > 0 > pixels  # the toy's pixel labels are the truth
    assert "FGL-C6" not in claims  # not run


def test_the_report_shows_where_controls_are_as_good(made):
    _, text, page = made
    table = section(text, "Clusters against the known subclasses, by coarse class")
    names = {"random": "random sub-labels, same cluster sizes", "kmeans": "k-means in the same 4-d space, same k",
             "pixels": "k-means on pixels, same k", "found": "UMAP + HDBSCAN (the method)"}  # fmt: skip
    for label in ("digits 0-4", "digits 5-9"):
        ari = {}
        for kind, title in names.items():
            (cells,) = lines(table, "mnist5k-cpu", title, label)
            ari[kind] = float(cells[3].split(" ± ")[0])
        assert ari["pixels"] == 1 > ari["found"] == ari["kmeans"] > ari["random"] + 0.3
    assert "Inflated" in text and "says that the method adds nothing there" in text
    clusters = section(text, "Clusters of each coarse class")
    assert len(lines(clusters, "mnist5k-cpu", "digits 0-4")) == 1 and "silhouette" in clusters
    assert "Clusters of each coarse class" in page
    (noise,) = lines(section(text, "Images between clusters, with all images clustered"), "mnist5k-cpu")
    assert noise[1].startswith("100.0") and noise[2].startswith("0.0")  # the toy's uncertain images are all noise


def test_every_plot_exists_and_stands_on_the_page(made):
    folder, _, page = made
    wanted = {"certainty.png", "uncertainty.png", "confusion.png", "lr_find.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == wanted
    for name in wanted:
        with Image.open(folder / "figures" / name) as image:
            assert image.width > 300 and np.asarray(image.convert("L")).std() > 5
    for title in ("Uncertainty U of the", "The most and the least", "Confusion of base", "Learning-rate range tests"):
        assert re.search(rf'<img alt="{title}', page), title
    assert "val_acc over epochs" in page  # training curves, of every row


def test_a_lone_stage_is_reported_and_nothing_is_claimed(made, tmp_path):
    alone = tmp_path / "mine"
    shutil.copytree(made[0] / "classifier", alone / "classifier")
    text = report.write_report(alone).read_text()
    assert lines(text, "mnist5k-cpu") and "mnist5k-cpu-ft" not in text and "Row against row" not in text
    assert "| supported" not in text  # one seed has no spread
    (alone / "classifier" / "mnist5k" / "predictions.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="predictions.npz.*--overwrite"):
        report.write_report(alone)


def test_plots_name_the_variant_of_a_folder_without_base(made, tmp_path, monkeypatch):
    titles = []
    for name in ("confusions", "lr_curves"):
        monkeypatch.setattr(plots, name, lambda path, curves, *_: titles.append([title for title, _ in curves]))
    for variant in ("ft", "ft-true"):
        shutil.copytree(made[0] / toy_runs.FOLDERS[variant][1], tmp_path / toy_runs.FOLDERS[variant][1])
    report.write_report(tmp_path)
    assert titles == [["FT pseudo (plain)", "FT true"]] * 2


def test_a_picture_that_fails_is_one_line(made, tmp_path):
    shutil.copytree(made[0] / "classifier", tmp_path / "mine" / "classifier")
    picture = tmp_path / "mine" / "figures" / "confusion.png"
    picture.mkdir(parents=True)
    with pytest.raises(UserError, match="all records are complete, but a picture .* --stage report tries again"):
        report.write_report(tmp_path / "mine")
    picture.rmdir()
    report.write_report(tmp_path / "mine")
    assert picture.is_file()


def test_a_stage_of_its_own_compares_the_clusters_of_all_seeds(made, tmp_path, capsys):
    def add(seed):
        table = tmp_path / f"seed{seed}" / "sub_mnist5k"
        shutil.copytree(made[0].parent / f"seed{seed}" / "sub_mnist5k", table)
        return np.loadtxt(table / "pseudo.csv", dtype=np.int64)

    def compare(seed):
        words = ["--dataset", "mnist5k", "--limit_train", "200", "--device", "cpu", "--seed", str(seed)]
        words += ["--out_dir", str(tmp_path / f"seed{seed}"), "--row", "mnist5k-matched"]
        setting = Setting(tables.parse_pipeline([*words, "--stage", "stability", "report"]))
        compare_seeds(setting)
        return setting.data.train.coarse

    labels = [add(44)]
    compare(44)
    assert "needs two" in capsys.readouterr().out and not [*tmp_path.rglob("stability")]
    for count, seed in ((2, 43), (3, 42)):  # made anew when a seed has come, also a lower one
        labels.insert(0, add(seed))
        old = tmp_path / f"seed{44 if seed == 43 else 43}" / "sub_mnist5k" / "stages" / "stability"
        old.mkdir(exist_ok=True)  # as if an earlier command had written it to its last seed
        coarse = compare(44 if seed == 43 else 43)
        [path] = tmp_path.rglob("stability/record.json")  # one, however often seeds were added
        assert path.relative_to(tmp_path).parts[0] == f"seed{seed}" and not old.exists()
        record = load_record(path)
        assert (record.seed, record.config["seed"]) == (seed, seed)
        assert (record.row, record.stage, record.details["seeds"]) == ("mnist5k-matched-stability", "stability", count)
        assert list(record.details["inputs"]) == ["seed42", "seed43", "seed44"][-count:]
        slow = between_seeds(labels, coarse)
        assert record.metrics["stability"].last == pytest.approx(np.mean([*slow.values()])) and slow[0] < 1
        assert {entry["class"]: entry["found"] for entry in record.details["stability_by_class"]} == slow
        assert set(record.metrics) == {"stability"}  # no control's labels in all of these seeds


def test_unfinished_rows_are_left_out(made, tmp_path):
    for name in ("seed42", "seed43"):
        for below in ("classifier", "fine-tuning"):
            shutil.copytree(made[0].parent / name / below, tmp_path / name / below)
    (tmp_path / "seed43" / toy_runs.FOLDERS["ft"][1] / "DONE").unlink()
    (tmp_path / "seed44").mkdir()  # just begun
    text = report.write_report(tmp_path / "seed42").read_text()
    assert "(1)" in lines(text, "mnist5k-cpu-ft")[0][3] and "(2)" in lines(text, "mnist5k-cpu")[0][3]


def test_a_run_by_hand_has_a_row_for_each_variant(made, tmp_path):
    for variant in ("", "ft", "mh09"):
        stage, below = toy_runs.FOLDERS[variant]
        folder = tmp_path / below
        shutil.copytree(made[0] / below, folder)
        (folder / "record.json").unlink()
        toy_runs.finish(folder, stage, variant, 42, {"accuracy": {"best_on_val": 0.5}}, {}, row="mnist5k-custom")
    text = report.write_report(tmp_path).read_text()
    for row in ("mnist5k-custom", "mnist5k-custom-ft", "mnist5k-custom-mh09"):
        assert lines(text, row), row


def test_nothing_to_report_on_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no finished stage to report on; --stage coarse is the first"):
        report.write_report(tmp_path)
    for name in ("cifar10", "mnist5k"):
        toy_runs.finish(tmp_path / "classifier" / name, "coarse", "", 0, {}, {}, dataset=name)
    with pytest.raises(UserError, match="several data sets"):
        report.write_report(tmp_path)


def test_a_folder_that_lies_elsewhere_is_found_by_the_path_of_the_command(tmp_path):
    pictures, out = write_pictures(tmp_path / "photos", count=130), tmp_path / "seed0"
    toy_runs.finish(out / "classifier" / "photos", "coarse", "", 0, {}, {}, dataset="folder:photos")

    def run(dataset):
        config = SimpleNamespace(dataset=dataset, data_dir=str(tmp_path / "data"), accept_unverified=False, threads=1)
        stages.run_stage(SimpleNamespace(out=out, config=config), "report")

    for other in ("cifar10", f"folder:{pictures}2"):
        with pytest.raises(UserError, match="folder:photos: no such folder"):
            run(other)
    run(f"folder:{pictures}")
    assert (out / "report.html").is_file()


def test_published_numbers_stand_beside_pathmnist_and_nothing_beside_cifar():
    paper = report.paper_of("finegrained")
    rows = {row.row: [n.printed for n in paper.compared_with(row) if n.metric == "accuracy"] for row in paper.row}
    assert [rows[f"pathmnist-paper{name}"] for name in ("", "-ft", "-ft-deep")] == [["90.836"], ["90.515"], ["91.657"]]
    assert not any(numbers for row, numbers in rows.items() if row.startswith("cifar10"))


def test_a_copy_of_a_seeds_folder_is_not_another_seed(tmp_path):
    for name in ("seed0", "seed1", "seed10", "seed1.bak", "seeds"):
        (tmp_path / name).mkdir()
    assert [path.name for path in report.sibling_seeds(tmp_path / "seed1")] == ["seed0", "seed10"]
    assert report.sibling_seeds(tmp_path / "seed1.bak") == []
