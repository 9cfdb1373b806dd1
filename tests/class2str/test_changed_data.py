"""Both stages on a folder that changes between two calls."""

from tests.changing_pictures import add_pictures, assert_refused, touch_pictures, write_pictures

FC, RNN = "class2str_tf/train_fc_classifier.py", "class2str_tf/train_rnn_classifer_mnist.py"


def test_stages_belong_to_the_images_that_they_were_trained_on(script, tmp_path):
    pictures = write_pictures(tmp_path / "set", side=28)
    flags = ("--B=8", "--dataset", f"folder:{pictures}", "--model", "lenet", "--name", "m", "--max-steps", "2")
    flags += ("--runs_dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data"))
    stage2 = (*flags, "--lstm-units", "8", "--n_sequence", "2", "--retry-collisions", "0", "--no-reduced-fc")
    script(FC, *flags)
    touch_pictures(pictures)
    assert "finished before" in script(FC, *flags).stdout
    add_pictures(pictures)
    for name, words in ((FC, flags), (RNN, stage2)):
        refused = script(name, *words, code=2)
        assert refused.returncode == 2
        assert_refused(refused.stderr, "runs/m")
    script(FC, *flags, "--overwrite")
    assert "finished before" in script(FC, *flags).stdout
    script(RNN, *stage2, code=None)  # two steps may not tell two classes apart, which is an error of its own
    assert (tmp_path / "runs" / "m" / "rnn" / "data.json").exists()
    write_pictures(pictures, first=700, count=1)
    refused = script(RNN, *stage2, code=2)
    assert refused.returncode == 2
    assert_refused(refused.stderr, "runs/m")
