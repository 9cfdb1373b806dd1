"""DenseNet-161: sizes and names, and the same numbers as torchvision's with the weights carried over."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from reproduction.runtime.tf import slim, tf, tf1
from tests.triplet.conftest import moving_decays
from tests.triplet.initial_values import check_backbone
from triplet_tf import nets
from triplet_tf.nets.layers import name_seed

SIDE = 225  # the map is 7x7 as at 224; TensorFlow's SAME pads an odd side as torch does


@pytest.fixture(scope="module")
def built() -> Iterator[SimpleNamespace]:
    """The training copy (no dropout in it), built once."""
    with tf1.Graph().as_default() as graph:
        tf1.set_random_seed(4)
        images = tf1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        logits, feature_map, pooled = nets.backbone("densenet161", images, 100, True)
        parameters = sum(v.shape.num_elements() for v in tf1.trainable_variables())
        nets.embedding_head(feature_map, 256)
        yield SimpleNamespace(
            graph=graph, images=images, logits=logits, feature_map=feature_map, pooled=pooled, parameters=parameters
        )


def test_sizes_names_and_counts(built):
    assert built.feature_map.shape.as_list() == [None, 7, 7, 2208] and built.pooled.shape.as_list() == [None, 2208]
    assert built.parameters == 26_692_900
    w = next(v for v in tf1.trainable_variables() if v.op.name == "W")
    assert w.shape.num_elements() == 27_697_152
    names = {v.op.name for v in slim.get_model_variables()}
    assert len(names) == 806 and all(name.startswith("densenet161/") for name in names)
    some = (
        "conv1/weights", "BatchNorm/gamma", "dense_block1/conv_block1/x1/BatchNorm/beta", "logits/weights",
        "dense_block4/conv_block24/x2/Conv/weights", "transition_block3/blk/Conv/weights", "logits/biases",
        "transition_block1/blk/BatchNorm/moving_mean", "final_block/BatchNorm/moving_variance",
    )  # fmt: skip
    assert {f"densenet161/{name}" for name in some} <= names
    assert names - {v.op.name for v in nets.restored_variables("densenet161")} == {
        "densenet161/logits/weights",
        "densenet161/logits/biases",
    }
    assert len(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)) == 2 * 161
    assert len(nets.weight_decay_terms("densenet161")) == 161
    decays = moving_decays(built.graph)
    assert len(decays) == 2 * 161 and set(decays) == {float(np.float32(0.999))}
    epsilons = {op.get_attr("epsilon") for op in built.graph.get_operations() if op.type == "FusedBatchNormV3"}
    assert epsilons == {np.float32(1e-5)}
    for op in built.graph.get_operations():
        if op.type in ("TruncatedNormal", "RandomUniform"):
            assert op.get_attr("seed2") == name_seed(op.name.partition("/Initializer/")[0])


def test_initial_values_are_slims(built):
    check_backbone("densenet161")


def torchvision_name(name: str) -> str:
    """Name of a model variable in torchvision's state."""
    words = name.removeprefix("densenet161/").split("/")
    kind = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
        "weights": "weight",
        "biases": "bias",
    }[words[-1]]
    norm = words[-2] == "BatchNorm"
    if words[0] == "logits":
        return f"classifier.{kind}"
    if words[0] in ("conv1", "BatchNorm", "final_block"):
        return f"features.{'norm5' if words[0] == 'final_block' else 'norm0' if norm else 'conv0'}.{kind}"
    block = words[0][-1]
    layer = "norm" if norm else "conv"
    if words[0].startswith("transition"):
        return f"features.transition{block}.{layer}.{kind}"
    number, part = words[1].removeprefix("conv_block"), words[2][-1]
    return f"features.denseblock{block}.denselayer{number}.{layer}{part}.{kind}"


def test_same_numbers_as_torchvision(built):
    import torch

    from reproduction.runtime.torchvision_guard import torchvision_ready

    torchvision_ready()
    import torchvision

    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    variables = slim.get_model_variables()
    norms = [v for v in variables if v.op.name.endswith(("gamma", "beta"))]
    drawn = {v.initial_value: rng.normal(v.op.name.endswith("gamma"), 0.1, v.shape) for v in norms}
    with tf1.Session() as session:
        session.run(tf1.variables_initializer(variables), drawn)
        weights = session.run({v.op.name: v for v in variables})
        ours = session.run([built.logits, built.pooled], {built.images: images})

    model = torchvision.models.densenet161(num_classes=100)
    carried = {}
    for name, value in weights.items():
        value = value[0, 0] if name == "densenet161/logits/weights" else value
        turned = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        carried[torchvision_name(name)] = torch.tensor(np.ascontiguousarray(turned))
    missing, unexpected = model.load_state_dict(carried, strict=False)
    assert len(carried) == len(weights) and not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        features = torch.relu(model.train().features(torch.tensor(images.transpose(0, 3, 1, 2))))
        pooled = features.mean((2, 3))
        theirs = [model.classifier(pooled).numpy(), pooled.numpy()]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())
