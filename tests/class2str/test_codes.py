"""Bits, collisions and decoders against slow oracles and the strings of the authors' poster."""

import itertools
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from class2str_tf.method import codes as c2s

ROOT = Path(__file__).parents[2]
TABLES = tomllib.loads((ROOT / "reproduction/tables/class2str.toml").read_text())["table"]
POSTER = {
    name: c2s.from_strings([row["values"][0] for table in TABLES if table["id"] == name for row in table["rows"]])
    for name in ("strings-mnist", "strings-cifar10", "strings-cifar100")
}


def soft(bits, confidence=0.9):
    """Distributions whose argmax is `bits`. [N, L] -> [N, L, 2]."""
    right = np.where(np.asarray(bits) == 1, confidence, 1 - confidence)
    return np.stack([1 - right, right], axis=-1)


def slow_decode(p, codes, rule):
    """The decoding rules, one image and one class at a time."""
    num_classes, num_bits = codes.shape
    result = []
    for image in p:
        predicted = [0 if image[i][0] > image[i][1] else 1 for i in range(num_bits)]
        distance = [sum(int(codes[k][i]) != predicted[i] for i in range(num_bits)) for k in range(num_classes)]
        likelihood = []
        for k in range(num_classes):
            total = 0.0
            for i in range(num_bits):
                total += np.log(np.float64(max(float(image[i][codes[k][i]]), c2s.PROBABILITY_FLOOR)))
            likelihood.append(total)
        if rule == "exact":
            order = [k for k in range(num_classes) if distance[k] == 0] or [-1]
        elif rule == "hamming":
            order = sorted(range(num_classes), key=lambda k: (distance[k], -likelihood[k], k))
        else:
            order = sorted(range(num_classes), key=lambda k: (-likelihood[k], k))
        result.append(order[0])
    return result


def slow_accuracy(p, codes, labels, rule):
    texts = ["".join(map(str, row)) for row in codes.tolist()]
    credit = pessimistic = unowned = 0.0
    for image, label, chosen in zip(p, labels, slow_decode(p, codes, rule), strict=True):
        predicted = "".join("0" if q[0] > q[1] else "1" for q in image)
        owners = texts.count(texts[label])
        right = (predicted == texts[label]) / owners if rule == "exact" else float(chosen == label)
        credit += right
        pessimistic += right if owners == 1 else 0
        unowned += predicted not in texts
    n = len(labels)
    return {"accuracy": credit / n, "pessimistic": pessimistic / n, "unowned": unowned / n}


@st.composite
def problems(draw, one_to_one=False):
    """(p, codes, labels) with few classes and bits, values that tie often, both floating types."""
    num_bits = draw(st.integers(1, 5))
    limit = 2**num_bits if one_to_one else 9
    num_classes = draw(st.integers(1, min(limit, 9)))
    numbers = draw(
        st.lists(st.integers(0, 2**num_bits - 1), min_size=num_classes, max_size=num_classes, unique=one_to_one)
    )
    codes = np.array([[n >> i & 1 for i in range(num_bits)] for n in numbers], np.uint8)
    num_images = draw(st.integers(1, 8))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    one = draw(hnp.arrays(dtype, (num_images, num_bits), elements=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])))
    labels = draw(hnp.arrays(np.int64, num_images, elements=st.integers(0, num_classes - 1)))
    return np.stack([1 - one, one], axis=-1), codes, labels


@given(problems(), st.sampled_from(c2s.RULES))
@settings(max_examples=70, deadline=None)
def test_decoders_equal_the_slow_ones(problem, rule):
    p, codes, labels = problem
    assert c2s.decode(p, codes, rule).tolist() == slow_decode(p, codes, rule)
    assert c2s.class_accuracy(p, codes, labels, rule) == pytest.approx(slow_accuracy(p, codes, labels, rule))


@given(problems(one_to_one=True))
@settings(max_examples=50, deadline=None)
def test_one_to_one_exact_accuracy_is_string_match(problem):
    p, codes, labels = problem
    match = c2s.string_match(c2s.bits_of(p), codes, labels)
    scores = c2s.class_accuracy(p, codes, labels, "exact")
    assert scores["accuracy"] == scores["pessimistic"] == match.mean()
    assert (c2s.decode(p, codes, "exact") == labels).tolist() == match.tolist()


@given(problems(), st.sampled_from(c2s.RULES))
@settings(max_examples=40, deadline=None)
def test_accuracies_keep_their_order(problem, rule):
    p, codes, labels = problem
    scores = c2s.class_accuracy(p, codes, labels, rule)
    assert 0 <= scores["pessimistic"] <= scores["accuracy"] <= 1
    assert scores["unowned"] == (c2s.decode(p, codes, "exact") < 0).mean()


@given(problems())
@settings(max_examples=40, deadline=None)
def test_collisions_account_for_the_missing_strings(problem):
    _, codes, _ = problem
    shared = c2s.collisions(codes)
    assert c2s.num_distinct(codes) == len(set(c2s.strings(codes)))
    assert len(codes) - c2s.num_distinct(codes) == sum(len(group) - 1 for group in shared)
    for group in shared:
        assert len(group) > 1 and group == sorted(group) and len({c2s.strings(codes)[k] for k in group}) == 1
    assert [group[0] for group in shared] == sorted(group[0] for group in shared)


@pytest.mark.parametrize("name", POSTER)
@pytest.mark.parametrize("rule", c2s.RULES)
def test_the_posters_strings_decode_to_their_classes(name, rule):
    codes = POSTER[name]
    classes = np.arange(len(codes))
    assert c2s.num_distinct(codes) == len(codes) and c2s.collisions(codes) == []
    assert c2s.from_strings(c2s.strings(codes)).tolist() == codes.tolist()
    assert c2s.decode(soft(codes), codes, rule).tolist() == classes.tolist()
    assert c2s.class_accuracy(soft(codes), codes, classes, rule) == {
        "accuracy": 1.0,
        "pessimistic": 1.0,
        "unowned": 0.0,
    }


def test_six_strings_of_the_posters_mnist_table_are_unowned():
    codes = POSTER["strings-mnist"]
    every = np.array(list(itertools.product([0, 1], repeat=4)), np.uint8)
    assert (c2s.decode(soft(every), codes, "exact") == -1).sum() == 16 - 10
    assert (c2s.decode(soft(every), codes, "hamming") >= 0).all()


def test_all_classes_on_one_string_match_fully_but_decode_to_chance():
    # what the flag defaults 1, 1, 1 lead to: rnn_acc 100 % means nothing
    codes = np.zeros((10, 4), np.uint8)
    labels = np.arange(10)
    p = soft(codes)
    assert c2s.string_match(c2s.bits_of(p), codes, labels).all()
    assert c2s.class_accuracy(p, codes, labels, "exact") == {
        "accuracy": pytest.approx(0.1),
        "pessimistic": 0.0,
        "unowned": 0.0,
    }
    assert c2s.class_accuracy(p, codes, labels, "ml")["accuracy"] == pytest.approx(0.1)
    assert c2s.collisions(codes) == [list(range(10))]


def test_a_tied_bit_is_one():
    assert c2s.bits_of(np.array([[[0.5, 0.5], [0.6, 0.4], [0.4, 0.6]]], np.float32)).tolist() == [[1, 0, 1]]


def test_min_confidence_is_over_all_classes_and_bits():
    q = soft(POSTER["strings-cifar10"], 0.99)
    q[3, 1] = [0.47, 0.53]
    assert c2s.min_confidence(q) == 0.53


def test_hamming_ties_go_to_the_likelier_class_then_the_lower_id():
    codes = c2s.from_strings(["00", "11"])
    assert c2s.decode(np.array([[[0.9, 0.1], [0.4, 0.6]]]), codes, "hamming").tolist() == [0]
    assert c2s.decode(np.array([[[0.6, 0.4], [0.1, 0.9]]]), codes, "hamming").tolist() == [1]
    assert c2s.decode(np.array([[[0.7, 0.3], [0.3, 0.7]]]), codes, "hamming").tolist() == [0]


def test_one_hard_wrong_bit_does_not_rule_a_class_out():
    # two bits say class 1 with certainty, one says class 0: the floor keeps the likelihoods finite
    codes = c2s.from_strings(["000", "111"])
    p = np.array([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]], np.float32)
    assert c2s.decode(p, codes, "ml").tolist() == [1]


def test_a_thousand_classes_stay_within_a_small_memory():
    rng = np.random.default_rng(0)
    codes = np.array([[n >> i & 1 for i in range(11)] for n in rng.permutation(2048)[:1000]], np.uint8)
    labels = rng.integers(0, 1000, 4000)
    one = np.clip(np.where(codes[labels] == 1, 0.8, 0.2) + rng.normal(0, 0.1, (4000, 11)), 0.01, 0.99)
    p = np.stack([1 - one, one], axis=-1).astype(np.float32)
    tracemalloc.start()
    found = {rule: c2s.decode(p, codes, rule) for rule in c2s.RULES}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * c2s.CHUNK_ELEMENTS  # a whole [4000, 1000, 11] table would be 350 MB
    for rule in ("hamming", "ml"):
        assert found[rule][:40].tolist() == slow_decode(p[:40], codes, rule)
    match = c2s.string_match(c2s.bits_of(p), codes, labels)
    assert ((found["exact"] == labels) == match).all() and 0 < match.mean() < 1


def test_chunks_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1], (57, 4))
    whole = {rule: c2s.decode(p, POSTER["strings-cifar10"], rule).tolist() for rule in c2s.RULES}
    monkeypatch.setattr(c2s, "CHUNK_ELEMENTS", 60)
    assert {rule: c2s.decode(p, POSTER["strings-cifar10"], rule).tolist() for rule in c2s.RULES} == whole


@pytest.mark.parametrize(
    "call",
    [
        lambda: c2s.decode(soft([[0, 1]]), np.zeros((2, 3), np.uint8), "exact"),
        lambda: c2s.decode(soft([[0, 1]]), np.zeros((2, 2), np.uint8), "nearest"),
        lambda: c2s.decode(np.full((1, 2, 2), np.nan), np.zeros((2, 2), np.uint8), "ml"),
        lambda: c2s.decode(soft([[0, 1]]), np.zeros((0, 2), np.uint8), "exact"),
        lambda: c2s.bits_of(np.zeros((2, 3))),
        lambda: c2s.min_confidence(np.zeros((0, 4, 2))),
        lambda: c2s.from_strings([]),
        lambda: c2s.from_strings(["01", "011"]),
        lambda: c2s.from_strings(["01", "0x"]),
        lambda: c2s.num_distinct(np.zeros((2, 63), np.uint8)),
        lambda: c2s.num_distinct(np.array([[0, 2]])),
        lambda: c2s.num_distinct(np.array([[0, 0.5]])),
        lambda: c2s.string_match(np.zeros((2, 2)), np.zeros((3, 2)), np.array([0, 3])),
        lambda: c2s.string_match(np.zeros((2, 2)), np.zeros((3, 2)), np.array([0, -1])),
        lambda: c2s.string_match(np.zeros((2, 2)), np.zeros((3, 2)), np.array([0])),
        lambda: c2s.class_accuracy(np.zeros((0, 2, 2)), np.zeros((3, 2)), np.zeros(0, np.int64), "exact"),
    ],
)
def test_input_that_does_not_fit_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_no_image_decodes_to_nothing():
    for rule in c2s.RULES:
        assert c2s.decode(np.zeros((0, 4, 2)), POSTER["strings-mnist"], rule).shape == (0,)
