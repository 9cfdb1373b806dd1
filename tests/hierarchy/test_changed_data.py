"""Training, the hand-over of stage 1, and the analysis on a folder that changes between two calls."""

import functools

from tests import scripts
from tests.changing_pictures import add_pictures, assert_refused, touch_pictures, write_pictures

from .test_runs import SMALL

script = functools.partial(scripts.run, "hierarchy_cnn_torch")


def test_stages_belong_to_the_images_that_they_were_trained_on(tmp_path):
    pictures, seed = write_pictures(tmp_path / "set", count=20), tmp_path / "runs" / "seed0"
    flags = ("--dataset", f"folder:{pictures}", "--data-dir", tmp_path / "data", *SMALL)
    script("train.py", *flags, "--stage", "flat", "--out", seed / "A0")
    touch_pictures(pictures)
    assert "finished before" in script("train.py", *flags, "--stage", "flat", "--out", seed / "A0").stdout
    add_pictures(pictures)
    assert_refused(script("train.py", *flags, "--stage", "flat", "--out", seed / "A0", code=2).stderr, "seed0/A0")
    aware = ("--stage", "aware", "--levels", "2", "--out", seed / "A1")
    assert_refused(script("train.py", *flags, *aware, code=2).stderr, "seed0/A0")
    analysed = script("analyze.py", "--run", seed, "--data-dir", tmp_path / "data", "--device", "cpu", code=2)
    assert_refused(analysed.stderr, "seed0/A0")
