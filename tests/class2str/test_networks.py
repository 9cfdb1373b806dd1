"""Parameter counts of the poster and the released code, and what the networks do in training and in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from class2str_tf.flags import Config
from class2str_tf.method import model
from class2str_tf.method.layers import count_parameters, dropout
from class2str_tf.networks import build as networks
from class2str_tf.networks import early
from reproduction.runtime.tf import tf, tf1


def build(config: Config, shape: tuple[int, int, int], num_classes: int, training: bool = True):
    images = tf1.placeholder(tf.uint8, [None, *shape])
    features = networks.cnn(images, config, training)
    return images, features, networks.fc_classifier(features, config, num_classes, training)


@pytest.mark.parametrize(
    ("flags", "shape", "num_classes", "num_features", "cnn", "fc", "fc_weights"),
    [
        ({}, (32, 32, 3), 10, 512, 14_723_136, 1_589_258, 1_583_104),
        ({}, (32, 32, 3), 100, 512, 14_723_136, 1_681_508, 1_675_264),
        ({"features": "released8192"}, (32, 32, 3), 10, 8192, 14_723_136, 9_453_578, None),
        ({"features": "released8192"}, (32, 32, 3), 100, 8192, 14_723_136, 9_545_828, None),
        ({"features": "released8192"}, (28, 28, 1), 10, 4608, None, None, None),
        ({}, (28, 28, 1), 10, 512, None, 1_589_258, 1_583_104),
        ({"model": "early"}, (32, 32, 3), 10, 512, 245_024, 1_589_258, 1_583_104),
        ({"model": "lenet"}, (28, 28, 1), 10, 784, 3_760, 266_610, None),
        ({"model": "lenet"}, (32, 32, 3), 10, 1024, 4_160, 338_610, None),
        ({"model": "lenet"}, (32, 32, 3), 100, 1024, 4_160, 347_700, None),
        ({"model": "lenet", "lenet": "poster"}, (28, 28, 1), 10, 3136, None, 1_611_274, 1_610_752),
    ],
)
def test_stage1_sizes(graph, config, flags, shape, num_classes, num_features, cnn, fc, fc_weights):
    _, features, logits = build(replace(config, **flags), shape, num_classes)
    assert features.name == "cnn/features:0" and logits.name == "classifier/logits:0"
    assert features.shape.as_list() == [None, num_features]
    assert cnn in (None, count_parameters("cnn"))
    assert fc in (None, count_parameters("classifier"))
    assert fc_weights in (None, count_parameters("classifier", weights_only=True))


def test_vgg16_blocks_and_moving_statistics(graph, config):
    build(config, (32, 32, 3), 10)

    def block(n: int) -> list[int]:
        layers = sorted({v.op.name.split("/")[1].removesuffix("_bn") for v in tf1.trainable_variables(f"cnn/conv{n}_")})
        return [count_parameters(f"cnn/{x}") + count_parameters(f"cnn/{x}_bn") for x in layers]

    assert block(1) == [1_920, 37_056]
    assert block(2) == [74_112, 147_840]
    assert block(3) == [295_680, 590_592, 590_592]
    assert block(4) == [1_181_184, 2_360_832, 2_360_832]
    assert block(5) == [2_360_832] * 3
    moving = [v for v in tf1.global_variables("cnn/") if "moving_" in v.op.name]
    assert sum(v.shape.num_elements() for v in moving) == 8_448


@pytest.mark.parametrize(
    ("num_features", "num_classes", "bits", "units", "lh"),
    [
        (784, 10, 4, (10,), 31_888),
        (512, 10, 4, (100, 20, 100), 304_088),
        (8192, 10, 4, (100, 20, 100), 3_376_088),
        (512, 100, 7, (40, 40), 102_014),
        (8192, 100, 7, (40, 40), 1_330_814),
        (512, 10, 4, (3, 3), 6_308),
        (512, 100, 7, (13, 13), 28_952),
        (512, 100, 7, (14,), 29_722),
        (784, 10, 4, (2,), 6_320),  # 97.6 % fewer than the FC above, but not the poster's 31 K
        (3136, 10, 4, (2,), 25_136),  # of the poster's LeNet: 98.4 % fewer
    ],
)
def test_lh_sizes(graph, num_features, num_classes, bits, units, lh):
    model.lh_classifier(tf1.placeholder(tf.float32, [None, num_features]), bits, units)
    assert count_parameters("lh") == lh


@pytest.mark.parametrize(
    ("num_classes", "bits", "hidden", "hash_", "inverse"),
    [
        (10, 4, 100, 1_908, 1_910),
        (10, 4, 500, 9_508, 9_510),
        (100, 7, 1000, 115_014, 115_100),
        (1000, 11, 2000, 2_046_022, 2_047_000),
    ],
)
def test_class2str_sizes(graph, num_classes, bits, hidden, hash_, inverse):
    q = model.class2str(tf1.placeholder(tf.float32, [None, num_classes]), bits, hidden)
    model.str2class(tf.nn.softmax(q), num_classes, hidden)
    assert (count_parameters("class2str"), count_parameters("str2class")) == (hash_, inverse)


@pytest.mark.parametrize("relu", [True, False])
def test_reduced_fc_is_linear_only_without_relu(graph, relu):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    logits = networks.reduced_fc(tf.constant(np.concatenate([x, -x])), 5, 3, relu)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        positive, negative = np.split(session.run(logits), 2)
    constant = (positive + negative) / 2  # of an affine map: the same for each image
    assert np.allclose(constant, constant[0], atol=1e-6) == (not relu)


def test_reduced_fc_stays_within_the_budget():
    for weights, features, classes in [(113_000, 784, 10), (5_000, 784, 10), (303_200, 512, 10), (25_120, 3136, 10)]:
        hidden = networks.reduced_hidden(weights, features, classes)
        assert hidden * (features + classes) <= weights < (hidden + 1) * (features + classes)


def test_weight_penalty_counts_weights_only(graph, config):
    build(replace(config, model="lenet"), (28, 28, 1), 10)
    penalty = networks.weight_penalty("cnn", "classifier")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        weights = [v for v in tf1.trainable_variables() if v.op.name.endswith("weights")]
        expected = sum(0.5 * np.sum(w.astype(np.float64) ** 2) for w in session.run(weights))
        assert len(weights) == 6 and session.run(penalty) == pytest.approx(expected, rel=1e-5)


def test_dropout_keeps_its_share_and_depends_on_step_and_layer_only(graph):
    x = tf.ones([100, 1000])
    step = tf1.train.get_global_step()
    a, b = dropout(x, 0.7, True, 3, 1), dropout(x, 0.7, True, 3, 2)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        first, other = session.run([a, b])
        assert np.array_equal(first, session.run(a)) and not np.array_equal(first, other)
        assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.7)}
        assert abs((first > 0).mean() - 0.7) < 0.01
        session.run(tf1.assign_add(step, 1))
        assert not np.array_equal(first, session.run(a))
    assert dropout(x, 0.7, False, 3, 1) is x


@pytest.mark.parametrize("model", ["vgg16", "lenet"])
def test_batch_statistics_without_dropout(graph, config, model):
    """What --finetune bn feeds stage 2: a second pass gives the same features, and they depend on the batch."""
    config = replace(config, model=model, F=4)
    x = tf1.placeholder(tf.uint8, [None, 32, 32, 3])
    features = networks.cnn(x, config, training=True, dropout=False)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        first, second = (session.run(features, {x: images}) for _ in range(2))
        session.run(tf1.assign_add(tf1.train.get_global_step(), 1))
        np.testing.assert_array_equal(first, session.run(features, {x: images}))
        np.testing.assert_array_equal(first, second)
        assert not np.allclose(first[:3], session.run(features, {x: images[:3]}))


def test_batch_norm_uses_moving_statistics_in_evaluation_only(graph, config):
    config = replace(config, model="lenet", pixels="unit")
    images, train, _ = build(config, (28, 28, 1), 10, training=True)
    x = tf1.placeholder(tf.uint8, [None, 28, 28, 1])
    evaluated = networks.cnn(x, config, training=False)
    batch = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        alone = session.run(evaluated, {x: batch[:1]})
        np.testing.assert_allclose(alone, session.run(evaluated, {x: batch})[:1], rtol=1e-4, atol=1e-5)
        assert not np.allclose(session.run(train, {images: batch})[:1], alone)
        session.run(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS), {images: batch})
        assert not np.allclose(session.run(evaluated, {x: batch[:1]}), alone)


def test_early_network_whitens_patches(graph):
    images = np.random.default_rng(0).normal(size=(50, 8, 8, 3)).cumsum(axis=1).cumsum(axis=2).astype(np.float32)
    filters = early.whitening(images)
    with tf1.Session() as session:
        outputs = session.run(tf.nn.conv2d(images, filters, 1, "VALID")).reshape(-1, 24)
    moments = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(moments[:12, :12], np.eye(12), atol=0.01)
    np.testing.assert_allclose(outputs[:, 12:], -outputs[:, :12], atol=1e-4)


def test_early_network_whitens_patches_of_every_class_of_a_folder(graph, config, monkeypatch):
    """A folder's images are sorted by class: here the first half is smooth and the second is noise."""
    config = replace(config, model="early", dataset="folder:own", F=8)
    images = np.full((20, 32, 32, 3), 99, np.uint8)
    images[10:] = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    monkeypatch.setattr(early, "PATCHES", 10)
    networks.cnn(tf.constant(images), config, training=False)
    with tf1.Session() as session:
        networks.whiten(session, images, config)
        found = session.run(tf1.global_variables("cnn/whiten/")[0])
    np.testing.assert_array_equal(found, early.whitening(images[::2].astype(np.float32)))


def test_early_convolutions_start_near_the_identity(graph):
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 4)).astype(np.float32)
    with tf1.variable_scope("cnn"):
        outputs = early._conv(tf.constant(x), 6, "conv")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        found = session.run(outputs)
    np.testing.assert_allclose(found[..., :4], x, atol=1e-6)
    assert found[..., 4:].std() > 0.1
