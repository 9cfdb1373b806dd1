"""Bad images, lists and weights, and a loss that is not finite: each ends with one line that names the culprit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from datasets import DatasetError, lists
from reproduction.runtime.run_folder import UserError
from tests.changing_pictures import write_pictures
from tests.triplet.conftest import write_set
from tests.triplet.test_runs import flags_of, run_here
from triplet_tf.config.base_config import parse, training_parser
from triplet_tf.data_sampling import sampler
from triplet_tf.data_sampling.image_lists import open_lists
from triplet_tf.training import evaluate, loop
from triplet_tf.training.graph import Graph


def test_bytes_that_are_no_image_are_named(tmp_path):
    home = write_set(tmp_path)
    (home / "images" / "test_3_1.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(UserError, match=r"test_3_1\.jpg: not a readable JPEG or PNG image"):
        run_here(*flags_of(tmp_path, tmp_path / "r", "vanilla", "--train_iters", "1", "--learning_rate", "1e-3"))
    assert not list((tmp_path / "r").rglob("DONE"))


@pytest.mark.parametrize("where", ["late in an update", "only in the test list"])
def test_wherever_the_unreadable_image_is_met_it_is_named(tmp_path, where):
    home = write_set(tmp_path)
    flags = flags_of(tmp_path, tmp_path / "r", "vanilla", "--train_iters", "1")
    if where == "late in an update":
        flags += ["--caffe_iter_size", "11"]  # 44 of the 45 training images are read before the first update is done
        rows = lists.read_csv(home / "lists" / "train_all_sub_list.csv")
        name = rows.names[sampler.shuffled(len(rows.names), 4, 0)(10)[0]]
    else:
        flags += ["--eval_split", "val"]
        name = "test_3_1.jpg"
    (home / "images" / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name}: not a readable JPEG or PNG image"):
        run_here(*flags)


@pytest.mark.parametrize("more", [None, (), ("--eval_split", "val")], ids=["folder", "csv", "csv and validation"])
def test_one_test_image_is_refused_before_the_training(tmp_path, monkeypatch, more):
    """It has no nearest other image; of a folder of five, a fifth is tested on."""
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("trains"))
    flags = flags_of(tmp_path, tmp_path / "r", "vanilla", "--train_iters", "1", *(more or ()))
    if more is None:
        folder = write_pictures(tmp_path / "pictures", count=3)
        (folder / "dark" / "002.png").unlink()
        flags += ["--db_name", f"folder:{folder}"]
    else:
        test = write_set(tmp_path) / "lists" / "test_all_sub_list.csv"
        test.write_text("".join(test.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DatasetError, match="^[^\n]*: the test list has 1 image; two or more are needed[^\n]*$"):
        run_here(*flags)
    if more is None:
        write_pictures(folder, count=5)
        assert len(open_lists(parse(training_parser(), flags)).test.names) == 2


def test_non_finite_loss_stops_with_its_step(tiny, tmp_path):
    flags = flags_of(tiny, tmp_path, "vanilla", "--train_iters", "9", "--learning_rate", "1e30", "--weight_decay", "on")
    with pytest.raises(UserError, match=r"vanilla: non-finite loss at step [1-8] \(batch of 4\); no checkpoint yet"):
        run_here(*flags)


@pytest.mark.parametrize(("logits", "embedding"), [(1.0, np.nan), (np.nan, 1.0)])
def test_outputs_that_are_not_finite_are_neither_tested_nor_saved(tiny, tmp_path, monkeypatch, logits, embedding):
    """The loss of a step is taken before its update, so the last one of a training cannot show it."""
    from reproduction.runtime.tf import tf1

    config = parse(training_parser(), flags_of(tiny, tmp_path, "hard", "--train_iters", "1"))
    lists = open_lists(config)
    labels = lists.test.labels
    cross_entropy, embeddings = np.full(len(labels), logits), np.full((len(labels), 2), embedding)
    tested = evaluate.Tested(labels, labels[:, None], cross_entropy, embeddings)
    monkeypatch.setattr(loop, "run_test", lambda *_: tested)
    with tf1.Graph().as_default(), tf1.Session() as session:
        update = tf1.assign_add(tf1.train.get_or_create_global_step(), 1).op
        session.run(tf1.global_variables_initializer())
        loss, batches = tf1.constant(1.0), SimpleNamespace(start=lambda *_: None)
        graph = Graph(batches, loss, {"loss": loss}, None, update, loss, None, tf1.no_op())
        with pytest.raises(UserError, match="^hard: the outputs of the network are not finite after step 1; lower the"):
            loop.train(session, graph, SimpleNamespace(folder=tmp_path), config, lists)
    assert not list(tmp_path.glob("model-*"))


@pytest.mark.parametrize("fault", ["file", "label", "list", "folder", "imagenet"])
def test_faults_before_the_first_step(tmp_path, fault, monkeypatch):
    home = write_set(tmp_path)
    test = home / "lists" / "test_all_sub_list.csv"
    absent = "no mobilenet_v1_1.0_224.ckpt.data-00000-of-00001 .*python -m datasets.weights mobilenet_v1_1.0_224.tgz"
    says = {
        "file": "row 4: .*test_1_1.jpg does not exist",
        "label": "label 99 of test_4_2.jpg is not among the 5",
        "list": "test_all_sub_list.csv: ",
        "imagenet": absent,
        "folder": "no such folder; csv:other expects train_all_sub_list.csv",
    }
    flags = flags_of(tmp_path, tmp_path / "r", "vanilla", "--train_iters", "1")
    if fault == "file":
        (home / "images" / "test_1_1.jpg").unlink()
    elif fault == "label":
        test.write_text(test.read_text().replace(",5,test_4_2.jpg", ",99,test_4_2.jpg"))
    elif fault == "list":
        test.unlink()
    elif fault == "folder":
        flags += ["--db_name", "csv:other"]
    else:
        flags += ["--init", "imagenet"]
        monkeypatch.setattr(loop, "open_lists", lambda *_: pytest.fail("images are fetched before weights are missed"))
    with pytest.raises(ValueError, match=says[fault]):
        run_here(*flags)
    assert not list((tmp_path / "r").rglob("model-*"))
