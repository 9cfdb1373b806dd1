"""ImageNet checkpoints of slim's kind, written by the test itself, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf import nets, ranking

CLASSES = 1001  # as the public ones have


def publish(session: tf1.Session, path: Path, version: int = 2, skip: str = "") -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint of the model variables of the current graph as its authors would publish it; values by name."""
    step = tf1.train.get_or_create_global_step()
    model = [v for v in slim.get_model_variables() if not (skip and v.op.name.startswith(skip))]
    norms = [v for v in model if v.shape.ndims == 1]  # 0 and 1 at first: make each its own
    feeds = {v.initial_value: np.random.default_rng(i).random(v.shape) for i, v in enumerate(norms)}
    session.run([v.initializer for v in [*model, step]], {**feeds, step.initial_value: 500_000})
    saver = tf1.train.Saver([*model, step], write_version=version)
    saved = saver.save(session, str(path), write_meta_graph=False, write_state=False)
    return Path(saved), session.run({v.op.name: v for v in model})


@pytest.fixture(scope="module")
def public() -> Iterator[tf1.Session]:
    """A session on MobileNet as it is published; `with public.graph.as_default()` to save from it."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(1)
        nets.backbone("mobile", tf.zeros([1, 32, 32, 3]), CLASSES, False)
        tf1.train.get_or_create_global_step()
        with tf1.Session(graph=graph) as session:
            yield session


@pytest.fixture(scope="module")
def mobile() -> Iterator[tf1.Session]:
    """A session on a two-head MobileNet for 10 classes; every test initialises it anew."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(2)
        step = tf1.train.get_or_create_global_step()
        logits, feature_map, _ = nets.backbone("mobile", tf.ones([2, 32, 32, 3]), 10, True)
        ranking.new_centers(10, 8)
        loss = tf.reduce_sum(logits) + tf.reduce_sum(nets.embedding_head(feature_map, 8))
        tf1.train.MomentumOptimizer(0.01, 0.9).minimize(loss, global_step=step)
    with tf1.Session(graph=graph) as session:
        yield session


@pytest.fixture(scope="module")
def checkpoint(public, tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A whole MobileNet checkpoint in format V2."""
    with public.graph.as_default():
        return publish(public, tmp_path_factory.mktemp("v2") / "mobile.ckpt")


@pytest.fixture
def graph(mobile) -> Iterator[None]:
    """The graph of `mobile` as the current one, with initial values."""
    with mobile.graph.as_default():
        mobile.run(tf1.global_variables_initializer())
        yield


def everything(session: tf1.Session) -> dict[str, np.ndarray]:
    return session.run({v.op.name: v for v in tf1.global_variables()})


def test_everything_but_the_logits_is_restored(mobile, graph, checkpoint):
    path, published = checkpoint
    before = everything(mobile)
    nets.restore_imagenet(mobile, "mobile", path)
    after = everything(mobile)
    restored = {v.op.name for v in nets.restored_variables("mobile")}
    assert len(restored) == 135 and len(published) == 137
    for name, value in after.items():
        np.testing.assert_array_equal(value, published[name] if name in restored else before[name], err_msg=name)
    untouched = set(after) - restored
    assert {"W", "b", "centers", "global_step", "MobilenetV1/Logits/Conv2d_1c_1x1/weights", "W/Momentum"} <= untouched
    assert after["global_step"] == 0
    nets.restore_imagenet(mobile, "mobile", str(path) + ".index")  # the name that a shell completes to


def test_single_file_format_of_the_older_tarballs(mobile, graph, public, tmp_path):
    with public.graph.as_default():
        path, published = publish(public, tmp_path / "mobile.ckpt", version=tf1.train.SaverDef.V1)
    assert path.is_file()  # one file, no .index
    nets.restore_imagenet(mobile, "mobile", path)
    after = everything(mobile)
    for variable in nets.restored_variables("mobile"):
        np.testing.assert_array_equal(after[variable.op.name], published[variable.op.name])


def refused(session: tf1.Session, path: Path, match: str, net: str = "mobile") -> None:
    """The call fails with one line that says so, and changes nothing."""
    before = everything(session)
    with pytest.raises(UserError, match=match) as error:
        nets.restore_imagenet(session, net, path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    for name, value in everything(session).items():
        np.testing.assert_array_equal(value, before[name])


def test_absent_and_damaged_files(mobile, graph, checkpoint, tmp_path):
    refused(mobile, tmp_path / "none.ckpt", "no ImageNet checkpoint for --net mobile.*--init random")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    refused(mobile, tmp_path / "text.ckpt", "not a readable checkpoint")
    path, _ = checkpoint
    for file in path.parent.glob("mobile.ckpt.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = tmp_path / "mobile.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    refused(mobile, tmp_path / "mobile.ckpt", "damaged|not a readable")
    data.unlink()
    refused(mobile, tmp_path / "mobile.ckpt", "damaged|not a readable")


def test_missing_names_and_other_shapes_are_named(mobile, graph, public, tmp_path):
    with public.graph.as_default():
        path, _ = publish(public, tmp_path / "mobile.ckpt", skip="MobilenetV1/Conv2d_7_pointwise/weights")
    refused(mobile, path, r"MobilenetV1/Conv2d_7_pointwise/weights is not in it, shape \[1, 1, 512, 512\]")
    with tf1.Graph().as_default(), tf1.Session() as other:
        tf1.set_random_seed(3)
        tf1.get_variable("MobilenetV1/Conv2d_0/weights", [3, 3, 1, 32])
        other.run(tf1.global_variables_initializer())
        path = Path(tf1.train.Saver().save(other, str(tmp_path / "grey.ckpt"), write_meta_graph=False))
    refused(mobile, path, r"Conv2d_0/weights is shape \[3, 3, 1, 32\] there, \[3, 3, 3, 32\] in --net mobile")
