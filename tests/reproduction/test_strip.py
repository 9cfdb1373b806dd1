"""The picture of the README: drawn from runs, small, opaque; a missing run is one line with its command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reproduction.page import strip
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.run_folder import REPO_ROOT


def put_runs(runs):
    """Writes the files of one small run of each paper."""
    draw = np.random.default_rng(0)
    names = ["cat", "dog", "ship", "truck"]

    def put(path, value):
        (runs / path).parent.mkdir(parents=True, exist_ok=True)
        (runs / path).write_text(json.dumps(value))

    put("class2str/r/seed0/rnn/x_strings.json", {"strings": ["00", "01", "10", "11"], "class_names": names})
    degrees = {"degrees": [[4, 3, 2, 1], [3, 2, 1, 1]], "ranking": [0, 1, 2, 3], "class_names": names}
    put("subclass/r/seed0/stage1/logs/a_neglected.json", degrees)
    put("finegrained/r/seed0/sub_x/none.json", {})
    below, coarse = runs / "finegrained/r/seed0/sub_x", np.repeat([0, 1], 20)
    write_npz(below / "clustering.npz", {"pseudo": np.arange(40) % 3 - 1})
    write_npz(below / "uncertainty.npz", {"coarse": coarse})
    write_npz(
        below / "maps.npz", {"0": draw.normal(size=(20, 2)), "1": draw.normal(size=(20, 2)), "key": np.array("k")}
    )
    put("triplet/r-semi_hard/seed0/none.json", {})
    Image.new("RGB", (1008, 1220), "green").save(runs / "triplet/r-semi_hard/seed0/neighbours.png")
    below = runs / "triplet/r-semi_hard/seed0"
    write_npz(below / "embeddings.npz", {"emb": draw.normal(size=(40, 3)), "label": np.arange(40) % 4})
    (below / "confusion.csv").write_text(",".join(["true", *names]) + "\n")
    leaves = [{"name": name, "classes": [label]} for label, name in enumerate(names)]
    put("hierarchy/r/seed0/A0/tree.json", {"name": "all", "children": leaves})
    arrays = {"test_logits": draw.normal(size=(60, 4)), "test_labels": np.arange(60) % 4}
    write_npz(runs / "hierarchy/r/seed0/A0/predictions.npz", arrays)
    return names


def test_one_picture_of_five_papers_small_and_opaque(tmp_path, capsys):
    names = put_runs(tmp_path / "runs")
    assert strip.class_names(tmp_path / "runs/hierarchy/r/seed0/A0/tree.json", 4) == names
    assert strip.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "x" / "strip.png")]) == 0
    with Image.open(tmp_path / "x" / "strip.png") as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert pixels.shape[1] > 4 * pixels.shape[0] and (pixels[..., 3] == 255).all()
    assert (pixels[0, :, :3] == 255).all()  # a white ground: the ink stays legible on a dark page
    assert "wrote" in capsys.readouterr().out


def test_charts_of_chosen_rows_show_no_image(tmp_path, capsys, monkeypatch):
    put_runs(tmp_path / "runs")
    below, shown = tmp_path / "runs/triplet/r-semi_hard/seed0", []
    (below / "neighbours.png").unlink()
    # two clusters in space: cat and dog are nearest to each other, ship and truck to themselves
    labels = np.repeat(np.arange(4), 2)
    points = np.array([[0, 0], [9, 0], [0, 1], [9, 1], [20, 0], [20, 1], [30, 0], [30, 1]], float)
    write_npz(below / "embeddings.npz", {"emb": points, "label": labels})
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: shown.append(np.array(image)))
    command = ["--runs", str(tmp_path / "runs"), "--charts", "--out", str(tmp_path / "strip.png"), "--rows"]
    assert strip.main([*command, "r"]) == 0
    assert shown[0].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    with pytest.raises(SystemExit, match="2"):
        strip.main([*command, "other"])
    assert "class2str/other*/" in capsys.readouterr().err


def test_a_missing_run_is_one_line_with_the_command_that_makes_it(tmp_path, capsys):
    put_runs(tmp_path)
    (tmp_path / "triplet/r-semi_hard/seed0/neighbours.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        strip.main(["--runs", str(tmp_path), "--out", str(tmp_path / "strip.png")])
    assert not list(tmp_path.glob("*.png"))  # no panel is drawn anew if not all are
    assert capsys.readouterr().err.rstrip().endswith("no such file; run: make reproduce-triplet")


OWN = sorted((strip.PICTURE.parent / "own").glob("*.png"))


@pytest.mark.parametrize("path", [strip.PICTURE, *OWN], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_pictures_are_small_and_opaque(path):
    assert path.stat().st_size < (400_000 if path == strip.PICTURE else 150_000)
    with Image.open(path) as image:
        assert (np.asarray(image.convert("RGBA"))[..., 3] == 255).all()


def test_own_images_shows_an_output_of_every_paper():
    text = (REPO_ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
    for paper, *_ in strip.PANELS:
        assert f"(images/own/{paper}.png)" in text and f"open `runs/{paper}/" in text.replace("open the viewer", "open")
    assert {path.stem for path in OWN} == {"strip", *(paper for paper, *_ in strip.PANELS)}
