"""The training script on a folder whose images change under the same names, and on one that grows."""

import shutil

from tests.changing_pictures import add_pictures, assert_refused, touch_pictures, write_pictures
from tests.triplet.test_runs import NET, TRAIN


def test_a_run_belongs_to_the_contents_of_its_images(script, tmp_path):
    pictures = write_pictures(tmp_path / "set", side=40)
    flags = [*NET, "--db_name", f"folder:{pictures}", "--train_iters", "1", "--test_interval", "1"]
    flags += ["--train_mode", "vanilla", "--models_dir", tmp_path / "runs", "--datasets_dir", tmp_path / "data"]
    flags += ["--checkpoint_dir", "m"]
    script(TRAIN, *flags)
    assert "finished before" in script(TRAIN, *flags).stdout
    touch_pictures(pictures)
    touched = script(TRAIN, *flags)
    assert "finished before" in touched.stdout and "steps" not in touched.stdout
    shutil.copyfile(pictures / "dark" / "000.png", pictures / "bright" / "000.png")  # the names stay
    refused = script(TRAIN, *flags, code=2)
    assert refused.returncode == 2 and "(images differs)" in refused.stderr and "runs/m" in refused.stderr
    evaluated = script("triplet_tf/eval.py", "--checkpoint", tmp_path / "runs" / "m" / "model-1", "--device", "cpu")
    assert "was trained on other data (images differs)" in evaluated.stderr
    add_pictures(pictures)
    refused = script(TRAIN, *flags, code=2)
    assert refused.returncode == 2
    assert_refused(refused.stderr, "runs/m")
