"""Trees: official ones, nesting, cuts, random ones, JSON, WordNet."""

import json

import numpy as np
import pytest

from hierarchy_cnn_torch.data import tree_files
from hierarchy_cnn_torch.method import trees
from reproduction.runtime.run_folder import UserError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_cifar10_tree_has_the_groups_that_its_file_lists():
    levels = trees.levels_of(tree_files.official_tree("cifar10", CIFAR10))
    assert [int(level.max()) + 1 for level in levels] == [2, 7]
    groups = {frozenset(np.flatnonzero(levels[1] == g).tolist()) for g in range(7)}
    assert groups == {frozenset(g) for g in ([0], [8], [1, 9], [2], [6], [3, 5], [4, 7])}
    assert set(np.flatnonzero(levels[0] == levels[0][0])) == {0, 1, 8, 9}


def test_cifar100_tree_is_2_9_20_and_follows_the_coarse_labels():
    data = json.loads((tree_files.CONFIGS / "tree_cifar100.json").read_text())
    names = {}

    def collect(node):
        for child in node.get("children", []):
            collect(child)
        if not node.get("children"):
            names[node["classes"][0]] = node["name"]

    collect(data)
    names = [names[i] for i in range(100)]
    assert names == sorted(names)  # CIFAR-100 lists its fine classes alphabetically
    levels = trees.levels_of(tree_files.official_tree("cifar100", names))
    assert [int(level.max()) + 1 for level in levels] == [2, 9, 20]
    assert (np.bincount(levels[2]) == 5).all()
    artefact = {names[c] for c in np.flatnonzero(levels[0] == levels[0][names.index("rocket")])}
    assert {"bridge", "bowl", "clock", "bed", "tank"} <= artefact and not {"cloud", "baby", "oak_tree"} & artefact


def test_fashion_tree_and_a_set_without_one():
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    levels = trees.levels_of(tree_files.official_tree("fashion_mnist", names))
    assert [int(level.max()) + 1 for level in levels] == [2, 4]
    assert set(np.flatnonzero(levels[1] == levels[1][5])) == {5, 7, 9}
    with pytest.raises(UserError, match="no official tree.*derived"):
        tree_files.official_tree("mnist5k", list("0123456789"))


def test_json_keeps_the_tree_and_accepts_edits(tmp_path):
    tree = tree_files.official_tree("cifar10", CIFAR10)
    tree_files.save_tree(tmp_path / "t.json", tree)
    assert tree_files.load_tree(tmp_path / "t.json", CIFAR10) == tree
    edited = {"name": "all", "children": [{"name": "a", "classes": [0, 1]}, {"name": "b", "children": [{"name": "z"}]}]}
    node = trees.from_json(edited, ["x", "y", "z"])
    assert [child.classes for child in node.children] == [(0, 1), (2,)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "r", "children": [{"name": "a"}]}, "misses class 1"),
        ({"name": "r", "children": [{"name": "a"}, {"name": "a"}, {"name": "b"}]}, "does not nest: class 0"),
        (
            {"name": "r", "children": [{"name": "g", "classes": [0], "children": [{"name": "b"}]}, {"name": "a"}]},
            "nest",
        ),
        ({"name": "r", "children": [{"name": "a"}, {"name": "c"}]}, "no class name"),
        ({"name": "r", "classes": [0, 1, 7]}, "class 7 is not one of"),
        ({"name": "r", "children": 3}, "must be lists"),
        ([1, 2], "must be an object"),
        ({"name": "r", "classes": [0, "1"]}, "whole numbers"),
    ],
)
def test_bad_trees_are_refused_in_one_line(data, message, tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message) as caught:
        tree_files.load_tree(path, ["a", "b"])
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_levels_that_do_not_nest_are_refused():
    with pytest.raises(ValueError, match="classes 1 and 2 share a group at level 2 but not at level 1"):
        trees.check_levels([np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])])


def test_tree_of_levels_and_back():
    rng = np.random.default_rng(0)
    for _ in range(30):
        fine = rng.integers(0, 6, 14)
        coarse = rng.integers(0, 3, 6)[fine]
        sizes = [len(set(coarse)), len(set(fine))]
        if not 1 < sizes[0] < sizes[1] < 14:
            continue
        levels = trees.check_levels([coarse, fine])
        back = trees.levels_of(trees.tree_of(levels, [str(i) for i in range(14)]))
        assert len(back) == 2 and all((a == b).all() for a, b in zip(levels, back, strict=True))


def test_lca_height_equals_a_walk_up_the_tree():
    levels = trees.levels_of(tree_files.official_tree("cifar10", CIFAR10))
    height = trees.lca_height(levels, 10)
    for i in range(10):
        for j in range(10):
            expected = (
                0
                if i == j
                else next((h for h, level in enumerate(reversed(levels), 1) if level[i] == level[j]), len(levels) + 1)
            )
            assert height[i, j] == expected


def test_random_tree_keeps_sizes_and_nests():
    levels = trees.levels_of(tree_files.official_tree("cifar10", CIFAR10))
    drawn = trees.random_levels(levels, 3)
    trees.check_levels(drawn)
    for a, b in zip(levels, drawn, strict=True):
        assert sorted(np.bincount(a)) == sorted(np.bincount(b))
    assert any((a != b).any() for a, b in zip(levels, drawn, strict=True))
    assert all((a == b).all() for a, b in zip(drawn, trees.random_levels(levels, 3), strict=True))


def test_choose_levels_names_what_there_is():
    tree = tree_files.official_tree("cifar10", CIFAR10)
    assert [int(level.max()) + 1 for level in trees.choose_levels(tree, [7])] == [7]
    with pytest.raises(ValueError, match=r"levels of \[2, 7\] groups, not 3"):
        trees.choose_levels(tree, [3])


def test_wordnet_paths_are_shortest_and_chains_collapse():
    parents = {
        "entity": [],
        "animal": ["entity"],
        "dog": ["animal", "pet"],
        "pet": ["thing"],
        "thing": ["entity"],
        "canine": ["animal"],
        "wolf": ["canine"],
        "car": ["vehicle"],
        "vehicle": ["thing"],
    }
    tree = trees.from_wordnet(parents, ["dog", "wolf", "car"])
    assert tree.name == "entity" and {child.name for child in tree.children} == {"animal", "car"}
    with pytest.raises(ValueError, match="no entry for n01"):
        trees.from_wordnet(parents, ["n01"])


def test_a_tree_file_may_hold_an_is_a_graph(tmp_path):
    graph = {"entity": [], "animal": ["entity"], "dog": ["animal"], "cat": ["animal"], "car": ["vehicle"]}
    path = tmp_path / "wordnet.json"
    path.write_text(json.dumps({"parents": graph | {"vehicle": ["entity"]}}))
    tree = tree_files.load_tree(path, ["dog", "cat", "car"])
    assert [child.classes for child in tree.children] == [(0, 1), (2,)] and tree.children[0].name == "animal"
    deep = {f"n{at}": [f"n{at + 1}"] for at in range(5000)} | {"n5000": []}
    for bad, message in (
        ({"dog": "animal"}, "lists of names"),
        ([], "lists of names"),
        ({"dog": [], "cat": []}, "no entry for car"),
        (deep | {"dog": ["n0"], "cat": [], "car": []}, "more than 200 steps"),
        ({"dog": ["cat"], "cat": ["dog"], "car": []}, "misses class 0"),
    ):
        path.write_text(json.dumps({"parents": bad}))
        with pytest.raises(UserError, match=f"wordnet.json: .*{message}"):
            tree_files.load_tree(path, ["dog", "cat", "car"])
