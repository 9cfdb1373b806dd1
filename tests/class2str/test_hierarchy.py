"""The tree of the strings and its comparison with superclasses, confusion and features, against slow oracles."""

import itertools
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from class2str_tf.method import string_tree as h
from class2str_tf.method.codes import from_strings, strings

ROOT = Path(__file__).parents[2]
TABLES = tomllib.loads((ROOT / "reproduction/tables/class2str.toml").read_text())["table"]


def poster(table_id):
    """(names, codes, values) of a table of strings in the paper's own numbers."""
    rows = next(table["rows"] for table in TABLES if table["id"] == table_id)
    return [r["name"] for r in rows], from_strings([r["values"][0] for r in rows]), [r["values"] for r in rows]


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
VEHICLES = {"airplane", "automobile", "ship", "truck"}
# superclasses of CIFAR-100's own files for the classes that the poster groups
CIFAR100 = {
    "small_mammals": "shrew rabbit", "medium_mammals": "porcupine skunk", "aquatic_mammals": "otter beaver",
    "non-insect_invertebrates": "lobster worm", "fish": "aquarium_fish flatfish ray", "reptiles": "crocodile",
    "trees": "maple_tree pine_tree palm_tree", "vehicles_2": "lawn_mower", "large_carnivores": "tiger wolf",
    "household_furniture": "table",
}  # fmt: skip


def cifar10_codes():
    names, codes, _ = poster("strings-cifar10")
    return codes[[names.index(name) for name in CIFAR10]]


def within_minus_across(length, coarse):
    inside, outside = [], []
    for i, j in itertools.combinations(range(len(coarse)), 2):
        (inside if coarse[i] == coarse[j] else outside).append(int(length[i][j]))
    return sum(inside) / len(inside), sum(outside) / len(outside)


def test_the_posters_cifar10_tree_is_no_better_than_chance():
    codes = cifar10_codes()
    assert [name in VEHICLES for name in CIFAR10] == [c == 1 for c in h.CIFAR10_SUPERCLASSES]
    found = h.superclass_scores(codes, h.CIFAR10_SUPERCLASSES)["lcp"]
    assert found["within"] == pytest.approx(2 / 3) and found["across"] == pytest.approx(19 / 24)
    assert found["value"] == pytest.approx(-0.125) and found["z"] < 0
    length, every = h.lcp_matrix(codes), []  # exact: all ways to choose the four vehicles
    for vehicles in itertools.combinations(range(10), 4):
        within, across = within_minus_across(length, [k in vehicles for k in range(10)])
        every.append(within - across)
    exact = sum(value >= -0.125 - 1e-12 for value in every) / len(every)
    assert found["p"] == pytest.approx(exact, abs=0.05)
    assert found["p"] == pytest.approx(0.72, abs=0.05)


def test_cifar100_groups_of_the_poster():
    names, codes, values = poster("strings-cifar100")
    kinds = {name: number for number, members in enumerate(CIFAR100.values()) for name in members.split()}
    groups = h.prefix_groups(codes, names, [kinds[name] for name in names])
    by_class = {name: group for group in groups for name in group["classes"]}
    assert len(groups) == 5 and set(by_class) == set(names)
    for name, (string, number, printed) in zip(names, values, strict=True):
        group = by_class[name]
        assert {n for n, v in zip(names, values, strict=True) if v[1] == number} == set(group["classes"])
        assert group["length"] == (5 if number == 5 else printed)  # the poster prints 4 for the fifth: it is 5
        assert group["prefix"] == string[: group["length"]]
    purity = {tuple(sorted(g["classes"]))[0]: g["purity"] for g in groups}
    assert purity == pytest.approx(
        {"otter": 1 / 3, "aquarium_fish": 3 / 5, "lawn_mower": 1 / 4, "palm_tree": 2 / 3, "beaver": 1 / 4}
    )


tables = st.integers(1, 5).flatmap(
    lambda bits: st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=9).map(
        lambda numbers: np.array([[n >> i & 1 for i in reversed(range(bits))] for n in numbers], np.uint8)
    )
)


@given(tables)
@settings(max_examples=50, deadline=None)
def test_lcp_matrix(codes):
    texts = strings(codes)
    for i, j in itertools.product(range(len(texts)), repeat=2):
        common = 0
        while common < len(texts[i]) and texts[i][common] == texts[j][common]:
            common += 1
        assert h.lcp_matrix(codes)[i, j] == common


def leaves(node):
    if "classes" in node:
        return [(node["prefix"], node["classes"])]
    return [leaf for child in node["children"].values() for leaf in leaves(child)]


@given(tables, st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_tree_and_groups_hold_every_class_once(codes, max_size):
    names = [f"class{k}" for k in range(len(codes))]
    tree = json.loads(json.dumps(h.trie(codes, names)))
    for shown in (tree, h.compact(tree)):
        found = sorted((string, name) for string, group in leaves(shown) for name in group)
        assert found == sorted(zip(strings(codes), names, strict=True))
        assert shown["size"] == len(names)
    text, dot = h.trie_text(tree), h.trie_dot(tree)
    num_strings = len(set(strings(codes)))
    assert len(text.splitlines()) == 2 * num_strings - 1  # a binary tree: every branching adds one leaf
    assert dot.count("shape=box") == num_strings and dot.count("->") == 2 * (num_strings - 1)
    groups = h.prefix_groups(codes, names, max_size=max_size)
    grouped = [k for group in groups for k in group["ids"]]
    assert len(grouped) == len(set(grouped))
    length = h.lcp_matrix(codes)
    for group in groups:
        inside = length[np.ix_(group["ids"], group["ids"])]
        assert inside.min() == group["length"] == len(group["prefix"])
        assert len(group["ids"]) <= max_size or group["length"] == codes.shape[1]
        others = [k for k in range(len(codes)) if k not in group["ids"]]
        assert not others or length[np.ix_(group["ids"], others)].max() < group["length"]


def test_text_and_dot_of_the_posters_tree():
    names, codes, _ = poster("strings-mnist")
    text = h.trie_text(h.trie(codes, names))
    first = ["____  (10 classes)", "  0___  (6 classes)", "    00__  (2 classes)", "      0000  6"]
    assert text.splitlines()[:4] == first
    assert '  n0000 [shape=box, label="0000\\n6"];' in h.trie_dot(h.trie(codes, names)).splitlines()
    assert '\\"' in h.trie_dot(h.trie(codes[:1], ['a "b"']))


def slow_depth(codes, coarse, depth):
    """Purity and NMI of the prefixes of one depth, by scikit-learn and by counting."""
    from sklearn.metrics import normalized_mutual_info_score

    prefixes = [text[:depth] for text in strings(codes)]
    hit = 0
    for prefix in set(prefixes):
        members = [c for p, c in zip(prefixes, coarse, strict=True) if p == prefix]
        hit += max(members.count(c) for c in members)
    return hit / len(coarse), normalized_mutual_info_score(coarse, prefixes)


@given(tables, st.data())
@settings(max_examples=15, deadline=None)
def test_superclass_scores_equal_the_slow_ones(codes, data):
    coarse = data.draw(st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes)))
    found = h.superclass_scores(codes, coarse, permutations=3)
    assert len(found["depths"]) == codes.shape[1]
    for entry in found["depths"]:
        purity, nmi = slow_depth(codes, coarse, entry["depth"])
        assert entry["purity"]["value"] == pytest.approx(purity)
        assert entry["nmi"]["value"] == pytest.approx(nmi, abs=1e-9)
        assert entry["groups"] == len({text[: entry["depth"]] for text in strings(codes)})
    pairs = [coarse[i] == coarse[j] for i, j in itertools.combinations(range(len(coarse)), 2)]
    if any(pairs) and not all(pairs):
        within, across = within_minus_across(h.lcp_matrix(codes), coarse)
        assert found["lcp"]["value"] == pytest.approx(within - across)
    else:
        assert found["lcp"] is None
    json.dumps(found, allow_nan=False)


def test_a_tree_that_follows_the_superclasses_stands_out():
    codes = np.array([[n >> i & 1 for i in reversed(range(4))] for n in range(16)], np.uint8)
    coarse = np.arange(16) // 4
    found = h.superclass_scores(codes, coarse)
    assert found["depths"][1]["purity"]["value"] == found["depths"][1]["nmi"]["value"] == 1
    for judged in (found["depths"][1]["purity"], found["depths"][1]["nmi"], found["lcp"]):
        assert judged["p"] == pytest.approx(1 / 1001) and judged["z"] > 3
    similarity = (coarse[:, None] == coarse) + 0.0
    assert h.spearman(codes, similarity)["p"] == pytest.approx(1 / 1001)
    confusion = similarity * 5 + 1
    features = np.eye(4)[coarse] + 0.01 * np.arange(4)
    assert h.spearman(codes, h.symmetric_confusion(confusion))["rho"] > 0.5
    assert h.spearman(codes, h.cosine_matrix(features))["rho"] > 0.5


def test_the_null_of_random_strings_is_uniform_enough():
    p_values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        codes = np.array([[n >> i & 1 for i in range(5)] for n in rng.permutation(32)[:20]], np.uint8)
        similarity = rng.normal(size=(20, 20))
        p_values.append(h.spearman(codes, similarity + similarity.T, permutations=99, seed=seed)["p"])
    assert 0.35 < np.mean(p_values) < 0.65 and np.mean(np.array(p_values) <= 0.1) < 0.25


@given(tables, st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_spearman_is_that_of_scipy(codes, seed):
    from scipy.stats import spearmanr

    similarity = np.random.default_rng(seed).integers(0, 4, (len(codes), len(codes)))
    similarity = similarity + similarity.T
    rows, columns = np.triu_indices(len(codes), 1)
    left, right = h.lcp_matrix(codes)[rows, columns], similarity[rows, columns]
    found = h.spearman(codes, similarity, permutations=5)
    if len(codes) < 3 or len(set(left.tolist())) == 1 or len(set(right.tolist())) == 1:
        assert found == {"rho": None, "z": None, "p": None}
    else:
        assert found["rho"] == pytest.approx(spearmanr(left, right).statistic)
        assert 1 / 6 <= found["p"] <= 1


def test_permutations_depend_on_the_seed_alone():
    codes = cifar10_codes()
    similarity = h.cosine_matrix(np.random.default_rng(3).normal(size=(10, 6)))
    for function, known in ((h.spearman, similarity), (h.superclass_scores, [0, 1] * 5)):
        first, again, other = (function(codes, known, permutations=200, seed=seed) for seed in (1, 1, 2))
        assert first == again != other


def test_confusion_is_symmetric_rates():
    counts = np.array([[8, 2, 0], [10, 30, 0], [0, 0, 0]])
    found = h.symmetric_confusion(counts)
    assert found.tolist() == [[0, (0.2 + 0.25) / 2, 0], [(0.2 + 0.25) / 2, 0, 0], [0, 0, 0]]
    assert counts[0, 0] == 8  # the caller's counts stay as they are


def test_cosines():
    vectors = np.array([[1.0, 0], [0, 3], [2, 2], [np.nan, np.nan], [-1, 0]])
    found = h.cosine_matrix(vectors)
    vectors[3] = 0  # a class without images
    for i, j in itertools.product(range(5), repeat=2):
        norm = math.hypot(*vectors[i]) * math.hypot(*vectors[j])
        assert found[i, j] == pytest.approx(vectors[i] @ vectors[j] / norm if norm else 0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: h.superclass_scores(cifar10_codes(), [0, 1]),
        lambda: h.spearman(cifar10_codes(), np.zeros((3, 3))),
        lambda: h.spearman(cifar10_codes(), np.arange(100.0).reshape(10, 10)),
        lambda: h.spearman(cifar10_codes(), np.full((10, 10), np.nan)),
    ],
)
def test_input_that_does_not_fit_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_strings_and_tree_need_no_framework():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys; from class2str_tf import plots; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"tensorflow", "torch", "sklearn", "matplotlib", "scipy"} & set(loaded)
