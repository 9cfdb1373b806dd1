"""ImageNet as lists of paths, and weights that somebody placed by hand."""

import hashlib
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import imagenet, manifest, weights


@pytest.fixture
def tree(make, tmp_path):
    for split, n in (("train", 3), ("val", 1)):
        for name in ("n01", "n02"):
            make.place(tmp_path / "imagenet" / split / name, {f"{i}.JPEG": b"x" for i in range(n)} | {"notes.txt": b""})
    return tmp_path / "imagenet"


def test_lists_are_made_once_and_hold_relative_paths(tree, tmp_path):
    found = imagenet.lists(tmp_path)
    assert found["train"].labels.tolist() == [0, 0, 0, 1, 1, 1] and found["val"].labels.tolist() == [0, 1]
    assert found["val"].paths == (tree / "val/n01/0.JPEG", tree / "val/n02/0.JPEG")
    written = json.loads((tree / "lists" / "imagenet-val.json").read_text())
    assert written == {"paths": ["val/n01/0.JPEG", "val/n02/0.JPEG"], "labels": [0, 1]}
    (tree / "val/n02/new.JPEG").write_bytes(b"x")
    assert len(imagenet.lists(tree)["val"].paths) == 2  # the list is what counts once it is there


def test_read_only_imagenet_is_listed_all_the_same(tree, tmp_path, capsys):
    (tree / "lists").write_text("a file where the folder should be, as good as read-only")
    assert imagenet.lists(tmp_path)["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "not written" in capsys.readouterr().err


def test_the_authors_lists_with_absolute_paths_are_read(tree, tmp_path):
    path = tmp_path / "imagenet-train.json"
    path.write_text(json.dumps({"paths": [str(tree / "train/n02/1.JPEG")], "labels": [1]}))
    assert imagenet.read(path, tree).paths == (tree / "train/n02/1.JPEG",)


@pytest.mark.parametrize(
    "body, message",
    [
        ({"paths": ["../secret"], "labels": [0]}, "leaves"),
        ({"paths": ["/etc/passwd"], "labels": [0]}, "leaves"),
        ({"paths": ["train/../../x"], "labels": [0]}, "leaves"),
        ({"paths": ["a\0b"], "labels": [0]}, "holds NUL"),
        ({"paths": ["gone.JPEG"], "labels": [0]}, "does not exist; is .* the right folder"),
        ({"paths": ["train/n01/0.JPEG"], "labels": [1000]}, "label 1000 at position 0 is not in 0..999"),
        ({"paths": ["train/n01/0.JPEG"], "labels": [True]}, "whole numbers"),
        ({"paths": ["train/n01/0.JPEG"], "labels": [1 << 80]}, "damaged"),
        ({"paths": [1], "labels": [0]}, "texts"),
        ({"paths": ["a"], "labels": []}, "same length"),
        ({"paths": [], "labels": []}, "one or more"),
        ({"paths": "a", "labels": "b"}, "two lists"),
        ({"labels": [0]}, "damaged"),
        ([], "damaged"),
    ],
)
def test_hostile_lists(tree, tmp_path, body, message):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(body))
    with pytest.raises(datasets.DatasetError, match=f"list.json: .*{message}"):
        imagenet.read(path, tree)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=40), st.just(b"[" * 100_000), st.just(b'{"paths": [], "labels"')))
def test_any_bytes_as_a_list(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "list.json"
    path.write_bytes(raw)
    with pytest.raises(datasets.DatasetError, match="list.json"):
        imagenet.read(path, path.parent)


def test_missing_imagenet_says_where_it_goes(tmp_path):
    with pytest.raises(datasets.DatasetError, match=f"{tmp_path}/imagenet/train/CLASS/.*nothing is downloaded"):
        imagenet.lists(tmp_path)


def test_unknown_class_in_val(tree, make, tmp_path):
    make.place(tree / "val" / "n03", {"0.JPEG": b"x"})
    with pytest.raises(datasets.DatasetError, match="n03: a class that the training folder lacks"):
        imagenet.lists(tmp_path)


# --- weights -------------------------------------------------------------------------------------------------------


def test_manifest_knows_what_the_papers_start_from():
    assert {"vgg16_weights.npz", "resnet18-f37072fd.pth", "vgg_16.ckpt", "resnet_v2_50.ckpt"} <= set(weights.names())


def test_missing_weights_say_where_they_go(tmp_path):
    with pytest.raises(datasets.DatasetError, match="vgg16_weights.npz .553,436,134 bytes, .*weights.*run:"):
        weights.find("vgg16_weights.npz", tmp_path)
    with pytest.raises(datasets.DatasetError, match="given.npz: no vgg16_weights.npz"):
        weights.find("vgg16_weights.npz", tmp_path, from_flag=tmp_path / "given.npz")
    with pytest.raises(datasets.DatasetError, match="unknown weights 'vgg19': choose vgg16_weights.npz"):
        weights.find("vgg19", tmp_path)


def test_unknown_digest_is_stored_at_the_first_use(make, remanifest, tmp_path, capsys):
    remanifest("weights", files={"vgg16_weights.npz": None})
    make.place(tmp_path / "weights", {"vgg16_weights.npz": b"one"})
    sha256 = hashlib.sha256(b"one").hexdigest()
    assert weights.find("vgg16_weights.npz", tmp_path) == (tmp_path / "weights" / "vgg16_weights.npz", sha256)
    assert sha256 in capsys.readouterr().err
    make.place(tmp_path / "weights", {"vgg16_weights.npz": b"two"})
    with pytest.raises(datasets.DatasetError, match="was stored"):
        weights.find("vgg16_weights.npz", tmp_path)
    assert weights.find("vgg16_weights.npz", tmp_path, accept_unverified=True)[1] == hashlib.sha256(b"two").hexdigest()


def test_digest_prefix_in_the_name_is_checked(make, tmp_path):
    make.place(tmp_path / "weights", {"resnet18-f37072fd.pth": b"not it"})
    with pytest.raises(datasets.DatasetError, match="sha256-prefix is .*expected f37072fd"):
        weights.find("resnet18-f37072fd.pth", tmp_path)
    with pytest.raises(datasets.DatasetError, match="replace it .see docs/data.md."):  # nothing is fetched here
        weights.find("resnet18-f37072fd.pth", tmp_path, from_flag=tmp_path / "weights" / "resnet18-f37072fd.pth")


def test_a_file_with_another_digest_is_named_so(make, tmp_path, capsys):
    make.place(tmp_path / "weights", {"resnet18-f37072fd.pth": b"not it", "vgg16_weights.npz": b"unknown"})
    weights.prepare(tmp_path, accept=True)
    out, err = capsys.readouterr()
    assert "resnet18-f37072fd.pth: sha256-prefix" in err and "differs from the manifest" in err
    states = {line.split(":")[0]: line.partition(", ")[2] for line in out.splitlines()}
    assert states == {
        "resnet18-f37072fd.pth": "UNVERIFIED (digest differs from the manifest's)",
        "vgg16_weights.npz": "no published digest",
    }


@pytest.mark.parametrize("inside", ["vgg_16.ckpt", "./vgg_16.ckpt"])
def test_checkpoint_comes_out_of_its_tarball(make, tmp_path, inside):
    name = "vgg_16_2016_08_28.tar.gz"
    make.place(tmp_path / "weights", {name: make.tar_gz({inside: b"checkpoint"})})
    path, _ = weights.find("vgg_16.ckpt", tmp_path)
    assert path == tmp_path / "weights" / "vgg_16" / "vgg_16.ckpt" and path.read_bytes() == b"checkpoint"
    (tmp_path / "weights" / name).unlink()
    assert weights.find("vgg_16.ckpt", tmp_path)[0] == path


@pytest.mark.parametrize("folder", ["", "./"])
def test_a_checkpoint_of_two_files_is_found_by_its_prefix(make, tmp_path, folder):
    name = "mobilenet_v1_1.0_224.ckpt"
    parts = {f"{name}.data-00000-of-00001": b"data", f"{name}.index": b"index"}
    command = f"python -m datasets.weights mobilenet_v1_1.0_224.tgz --root {tmp_path}"
    with pytest.raises(datasets.DatasetError, match=f"run: {command}$"):
        weights.find(name, tmp_path)
    inside = {f"{folder}{part}": body for part, body in {**parts, f"{name}.meta": b"graph"}.items()}
    make.place(tmp_path / "weights", {"mobilenet_v1_1.0_224.tgz": make.tar_gz(inside)})
    assert weights.present(tmp_path) == "mobilenet_v1_1.0_224.tgz"
    path, digest = weights.find(name, tmp_path)
    home = tmp_path / "weights" / "mobilenet_v1_1.0_224"
    assert path == home / name and digest == hashlib.sha256(b"data").hexdigest()
    assert {file.name: file.read_bytes() for file in home.glob("mobilenet*")} == parts  # nothing else is unpacked
    (home / f"{name}.index").write_bytes(b"other")
    with pytest.raises(datasets.DatasetError, match="index: sha256 is .*was stored"):
        weights.find(name, tmp_path)
    (home / f"{name}.index").unlink()
    with pytest.raises(datasets.DatasetError, match=f"{home}: cannot unpack .*Directory not empty"):
        weights.find(name, tmp_path)
    home.rename(tmp_path / "elsewhere")
    assert not weights.is_there(path) and weights.find(name, tmp_path)[0] == path  # unpacked again
    home.rename(tmp_path / "away")
    make.place(tmp_path / "weights", {"mobilenet_v1_1.0_224.tgz": make.tar_gz({f"{name}.index": b"index"})})
    with pytest.raises(datasets.DatasetError, match=f"data-00000-of-00001 .*another archive: delete it and {home}"):
        weights.find(name, tmp_path, accept_unverified=True)


def test_hostile_tarball(tmp_path, make):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("vgg_16.ckpt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    make.place(tmp_path / "weights", {"vgg_16_2016_08_28.tar.gz": out.getvalue()})
    with pytest.raises(datasets.DatasetError, match="link or a device"):
        weights.find("vgg_16.ckpt", tmp_path)
    assert not (tmp_path / "weights" / "vgg_16").exists()


def test_asked_for_download(remanifest, server, tmp_path):
    server.bodies["/vgg16_weights.npz"] = b"npz"
    remanifest("weights", files={"vgg16_weights.npz": None}, mirrors=[server.url])
    with pytest.raises(datasets.DatasetError, match=f"run: python -m datasets.weights vgg16_.*npz --root {tmp_path}$"):
        weights.get("vgg16_weights.npz", tmp_path, offline=True)
    assert weights.get("vgg16_weights.npz", tmp_path).read_bytes() == b"npz"
    with pytest.raises(datasets.DatasetError, match="unknown file 'x'"):
        weights.get("x", tmp_path)
    assert manifest.entry("weights").files[0].digest.evidence == "unknown"
