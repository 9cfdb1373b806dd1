"""Names, sizes and parameter counts; initial values by name; dropout without state."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import slim, tf, tf1
from tests.triplet.conftest import moving_decays
from tests.triplet.initial_values import check_backbone
from triplet_tf import nets
from triplet_tf.nets.layers import dropout, name_seed

RANDOM = {"TruncatedNormal", "RandomUniform", "RandomStandardNormal", "RandomUniformInt"}
EXPECTED = {  # trainables at 100 classes, model variables, restored, moving-statistics updates, L2 terms, map at 224
    "resnet50": (23_724_260, 272, 270, 98, 54, [7, 7, 2048], 2048, 25_690_112),
    "resnet50_v1": (23_712_932, 267, 265, 106, 54, [7, 7, 2048], 2048, 25_690_112),
    "inc4": (42_358_536, 608, 596, 302, 153, [12, 12, 1024], 1536, 37_748_736),
    "inc3": (23_034_088, 388, 376, 192, 98, [5, 5, 2048], 2048, 13_107_200),
    "mobile": (3_309_476, 137, 135, 54, 15, [7, 7, 1024], 1024, 12_845_056),
}
SCOPES = {
    "resnet50": "resnet_v2_50",
    "resnet50_v1": "resnet_v1_50",
    "inc4": "InceptionV4",
    "inc3": "InceptionV3",
    "densenet161": "densenet161",
    "mobile": "MobilenetV1",
}


def build(net: str, size: int, training: bool = True, **keywords: object) -> SimpleNamespace:
    """A network for 100 classes in the current graph, with what the tests look at."""
    images = tf1.placeholder(tf.float32, [None, size, size, 3])
    logits, feature_map, pooled = nets.backbone(net, images, 100, training, **keywords)
    return SimpleNamespace(images=images, logits=logits, map=feature_map, pooled=pooled)


@pytest.fixture(scope="module", params=EXPECTED)
def built(request) -> Iterator[SimpleNamespace]:
    """One training copy of each network at 224 with its embedding head; built once, nothing is run."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(11)
        tf1.train.get_or_create_global_step()
        found = build(request.param, 224)
        found.backbone_parameters = sum(v.shape.num_elements() for v in tf1.trainable_variables())
        found.embedding = nets.embedding_head(found.map, 256)
        found.net, found.graph = request.param, graph
        yield found


def test_sizes_and_counts(built):
    trainable, model, restored, updates, decays, shape, width, head = EXPECTED[built.net]
    assert built.logits.shape.as_list() == [None, 100]
    assert built.map.shape.as_list() == [None, *shape]
    assert built.pooled.shape.as_list() == [None, width]
    assert built.embedding.shape.as_list() == [None, 256]
    assert built.backbone_parameters == trainable
    assert len(slim.get_model_variables()) == model
    assert len(nets.restored_variables(built.net)) == restored
    assert len(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)) == updates
    assert len(nets.weight_decay_terms(built.net)) == decays
    variables = {v.op.name: v.shape.as_list() for v in tf1.trainable_variables()}
    assert variables["W"] == [head // 256, 256] and variables["b"] == [256]


def test_names_of_the_public_checkpoints(built):
    names = {v.op.name for v in slim.get_model_variables()}
    assert {name.partition("/")[0] for name in names} == {SCOPES[built.net]}
    some = {
        "resnet50": (
            "conv1/weights",
            "block4/unit_3/bottleneck_v2/preact/gamma",
            "postnorm/moving_variance",
            "logits/biases",
        ),
        "resnet50_v1": ("conv1/BatchNorm/beta", "block1/unit_1/bottleneck_v1/shortcut/weights", "logits/weights"),
        "inc4": (
            "Conv2d_2b_3x3/weights",
            "Mixed_3a/Branch_1/Conv2d_0a_3x3/weights",
            "Mixed_5a/Branch_0/Conv2d_1a_3x3/weights",
            "Mixed_4a/Branch_1/Conv2d_0c_7x1/BatchNorm/beta",
            "Mixed_6h/Branch_2/Conv2d_0e_1x7/weights",
            "Mixed_7d/Branch_2/Conv2d_0e_3x1/BatchNorm/moving_mean",
            "AuxLogits/Conv2d_2a/weights",
            "AuxLogits/Aux_logits/weights",
            "Logits/Logits/biases",
        ),
        "inc3": (
            "Mixed_7c/Branch_2/Conv2d_0d_3x1/weights",
            "AuxLogits/Conv2d_2b_1x1/biases",
            "Logits/Conv2d_1c_1x1/weights",
        ),
        "mobile": (
            "Conv2d_0/weights",
            "Conv2d_13_depthwise/depthwise_weights",
            "Conv2d_13_depthwise/BatchNorm/gamma",
            "Conv2d_13_pointwise/BatchNorm/moving_mean",
            "Logits/Conv2d_1c_1x1/biases",
        ),
    }[built.net]
    assert {f"{SCOPES[built.net]}/{name}" for name in some} <= names
    assert any(name.endswith("/gamma") for name in names) == (not built.net.startswith("inc"))
    left_out = names - {v.op.name for v in nets.restored_variables(built.net)}
    logits = {"resnet50": "logits", "resnet50_v1": "logits"}.get(built.net, "Logits")
    assert all(name.split("/")[1] in (logits, "AuxLogits") for name in left_out)


def test_every_initial_value_depends_on_seed_and_name_alone(built):
    seen = set()
    for op in built.graph.get_operations():
        if op.type in RANDOM:
            variable, _, rest = op.name.partition("/Initializer/")
            assert rest, f"{op.name} draws while training"
            assert (op.get_attr("seed"), op.get_attr("seed2")) == (11, name_seed(variable)), op.name
            seen.add(variable)
    weights = {v.op.name for v in tf1.trainable_variables() if v.op.name.endswith(("weights", "W"))}
    assert seen == weights


def test_initial_values_are_slims(built):
    check_backbone(built.net)


def test_l2_terms_hold_the_backbone_and_never_w(built):
    collected = {t.op.name for t in tf1.losses.get_regularization_losses()}
    backbone = {t.op.name for t in nets.weight_decay_terms(built.net)}
    assert {name.partition("/")[0] for name in collected - backbone} == {"W"} and len(collected - backbone) == 1
    value = 4e-5 if built.net.startswith("inc") else 1e-4
    scales = [op for op in built.graph.get_operations() if op.name.endswith("Regularizer/l2_regularizer/scale")]
    assert {float(tf.get_static_value(op.outputs[0])) for op in scales} == {np.float32(value), 1.0}


def test_moving_statistics_decay_and_epsilon(built):
    normalised = [op for op in built.graph.get_operations() if op.type == "FusedBatchNormV3"]
    expected = EXPECTED[built.net][3] // 2
    assert len(normalised) == expected and all(op.get_attr("is_training") for op in normalised)
    epsilon = 1e-5 if built.net.startswith("resnet") else 1e-3
    assert {op.get_attr("epsilon") for op in normalised} == {np.float32(epsilon)}
    decay = 0.997 if built.net.startswith("resnet") else 0.9997
    decays = moving_decays(built.graph)
    assert len(decays) == 2 * expected and set(decays) == {float(np.float32(decay))}


@pytest.mark.parametrize(
    ("net", "shape", "head"),
    [
        ("resnet50", [10, 10, 2048], 52_428_800),
        ("resnet50_v1", [10, 10, 2048], 52_428_800),
        ("inc4", [17, 17, 1024], 75_759_616),
        ("densenet161", [9, 9, 2208], 45_785_088),
        ("mobile", [10, 10, 1024], 26_214_400),
    ],
)
def test_maps_at_299(net, shape, head):
    with tf1.Graph().as_default() as graph:
        assert build(net, 299, training=False).map.shape.as_list() == [None, *shape]
        assert 256 * np.prod(shape) == head
        if net == "inc4":
            assert sum(v.shape.num_elements() for v in tf1.trainable_variables()) == 43_931_400
            last = graph.get_tensor_by_name("InceptionV4/Mixed_7d/concat:0").shape.as_list()
            assert last == [None, 8, 8, 1536] and 256 * np.prod(last[1:]) == 25_165_824


@pytest.mark.parametrize("built", ["inc4"], indirect=True)
def test_last_map_of_inception_v4_at_224(built):
    last = built.graph.get_tensor_by_name("InceptionV4/Mixed_7d/concat:0").shape.as_list()
    assert last == [None, 5, 5, 1536] and 256 * np.prod(last[1:]) == 9_830_400


@pytest.mark.parametrize("built", ["resnet50"], indirect=True)
def test_resnet_v2_restores_270_of_272(built, tmp_path):
    """Written and read back in the same graph, with other values between; test_restore.py has the rest."""
    model = slim.get_model_variables()
    with tf1.Session() as session:
        session.run([v.initializer for v in model], {v.initial_value: np.full(v.shape, i) for i, v in enumerate(model)})
        path = tf1.train.Saver(model).save(session, str(tmp_path / "resnet_v2_50.ckpt"), write_meta_graph=False)
        session.run([v.initializer for v in model], {v.initial_value: np.full(v.shape, -1.0) for v in model})
        nets.restore_imagenet(session, "resnet50", path)
        corners = session.run([tf.reshape(v.read_value(), [-1])[0] for v in model])
    found = {v.op.name: (value, i) for i, (v, value) in enumerate(zip(model, corners, strict=True))}
    restored = {name for name, (value, i) in found.items() if value == i}
    assert len(found) == 272 and len(restored) == 270
    assert {name: found[name][0] for name in set(found) - restored} == {
        "resnet_v2_50/logits/weights": -1.0,
        "resnet_v2_50/logits/biases": -1.0,
    }


def test_dropout_follows_the_global_step(built):
    keep = {"inc4": 0.8, "inc3": 0.8, "mobile": 0.999}.get(built.net)
    drawn = [op for op in built.graph.get_operations() if op.type == "StatelessRandomUniformV2"]
    assert len(drawn) == (keep is not None)
    if keep is not None:
        assert "global_step" in {op.name for op in ancestors(drawn[0])}
        thresholds = [op for op in ancestors(built.logits.op) if op.type == "GreaterEqual"]
        rates = {float(tf.get_static_value(op.inputs[1])) for op in thresholds}
        assert sorted(rates) == pytest.approx([1 - keep], abs=1e-6)


def ancestors(op: tf.Operation) -> set:
    """All operations that this one is computed from."""
    found, left = set(), [op]
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            left += [tensor.op for tensor in op.inputs]
    return found


def test_second_copy_shares_everything_and_dropout_is_a_function_of_the_step():
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        step = tf1.placeholder(tf.int64, [])
        training = build("mobile", 64, bn_decay=0.9, seed=1, step=step)
        embedding = nets.embedding_head(training.map, 16)
        before = [v.op.name for v in tf1.global_variables()], len(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS))
        logits, feature_map, pooled = nets.backbone("mobile", training.images, 100, False, reuse=True)
        nets.embedding_head(feature_map, 16, reuse=True)
        assert ([v.op.name for v in tf1.global_variables()], len(tf1.get_collection("update_ops"))) == before
        assert feature_map.shape.as_list() == [None, 2, 2, 1024]

        session.run(tf1.global_variables_initializer())
        x = {training.images: np.random.default_rng(0).normal(size=(4, 64, 64, 3)), step: 3}
        first, maps, means = session.run([logits, feature_map, pooled], x)
        np.testing.assert_array_equal(session.run(logits, x), first)  # evaluation changes nothing
        np.testing.assert_allclose(means, maps.mean((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(session.run(embedding, x), axis=1), 1, rtol=1e-5)
        drawn = session.run(training.logits, x)
        np.testing.assert_array_equal(session.run(training.logits, x), drawn)
        assert (session.run(training.logits, {**x, step: 4}) != drawn).any()

        mean = next(v for v in tf1.global_variables() if v.op.name == "MobilenetV1/Conv2d_0/BatchNorm/moving_mean")
        inputs = tf1.get_default_graph().get_tensor_by_name("MobilenetV1/Conv2d_0/Conv2D:0")
        batch_mean = session.run(inputs, x).mean((0, 1, 2))
        session.run(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS), x)
        np.testing.assert_allclose(session.run(mean), 0.1 * batch_mean, rtol=1e-4, atol=1e-6)
        assert (session.run(logits, x) != first).any()  # training moves the statistics


def test_initial_values_of_the_embedding_head():
    drawn = []
    for extra in (False, True):
        with tf1.Graph().as_default(), tf1.Session() as session:
            tf1.set_random_seed(5)
            if extra:  # what else is in the graph makes no difference
                tf1.get_variable("other", [3], initializer=tf1.random_normal_initializer())
            nets.embedding_head(tf.zeros([1, 7, 7, 64]), 8)
            w, b = (v for v in tf1.global_variables() if v.op.name in ("W", "b"))
            session.run(tf1.variables_initializer([w, b]))
            drawn.append(session.run([w, b]))
    (w, b), (again, _) = drawn
    np.testing.assert_array_equal(w, again)
    limit = np.sqrt(6 / sum(w.shape))
    assert 0.98 * limit < np.abs(w).max() <= limit and abs(w.std() - limit / np.sqrt(3)) < 0.02 * limit
    assert not b.any()


def test_he_normal_is_slims_initial_value():
    from triplet_tf.nets.layers import he_normal

    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        shape = [3, 3, 256, 128]
        ours, theirs = session.run([he_normal()(shape), slim.variance_scaling_initializer()(shape)])
    assert ours.std() == pytest.approx(theirs.std(), rel=0.01)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.01)  # the cut, at two deviations


def test_dropout_is_a_function_of_seed_and_step():
    with tf1.Graph().as_default(), tf1.Session() as session:
        x, step = tf.ones([64, 100]), tf1.placeholder(tf.int64, [])
        drops = [dropout(x, 0.8, seed, step) for seed in (0, 0, 1)]
        a, b, c = session.run(drops, {step: 3})
        later = session.run(drops[0], {step: 4})
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() and (a != later).any()
    np.testing.assert_allclose(np.unique(a), [0, 1.25])
    assert abs((a > 0).mean() - 0.8) < 0.02


@pytest.mark.parametrize("net", ["inc4", "inc3", "densenet161"])
def test_frames_that_are_too_small(net):
    smallest = nets.TABLE[net].smallest
    with tf1.Graph().as_default(), pytest.raises(UserError, match=rf"--frame_size {smallest - 1}.*at least {smallest}"):
        build(net, smallest - 1)


def test_other_taps(monkeypatch):
    from triplet_tf.nets import build as module

    maps = {"Mixed_6h": tf.zeros([1, 9, 9, 2]), "Mixed_7d": tf.zeros([1, 3, 3, 4]), "AuxLogits": tf.zeros([1, 100])}
    monkeypatch.setitem(module.BUILDERS, "inc4", lambda *_: (tf.zeros([1, 100]), tf.zeros([1, 1, 1, 4]), maps))
    assert build("inc4", 299).map.shape.as_list() == [1, 9, 9, 2]
    assert build("inc4", 299, tap="Mixed_7d").map.shape.as_list() == [1, 3, 3, 4]  # STL-D07
    for name in ("block4", "AuxLogits"):
        with pytest.raises(UserError, match=f"--tap {name}: .* choose one of Mixed_6h, Mixed_7d"):
            build("inc4", 299, tap=name)


def test_embedding_of_a_zero_map_is_zero_and_has_a_gradient():
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        x = tf1.placeholder(tf.float32, [None, 2, 3, 4])
        e = nets.embedding_head(x, 5)
        gradient = tf1.gradients(tf.reduce_sum(e * [1.0, 2.0, 3.0, 4.0, 5.0]), x)[0]
        session.run(tf1.global_variables_initializer())
        w = session.run([v for v in tf1.trainable_variables() if v.op.name == "W"][0])
        some = np.random.default_rng(0).random((3, 2, 3, 4))
        rows, slope = session.run([e, gradient], {x: np.zeros((1, 2, 3, 4))})
        assert not rows.any() and np.isfinite(slope).all()
        z = some.reshape(3, -1) @ w
        np.testing.assert_allclose(session.run(e, {x: some}), z / np.linalg.norm(z, axis=1)[:, None], rtol=1e-4)
