"""The lists of each fine-grained set out of files in its official format."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import tarfile

import numpy as np
import pytest

from datasets import aircraft, cars, cli, dogs, flowers102, lists, manifest, nabirds
from datasets.core import DatasetError
from datasets.lists import Rows

SETS = (aircraft, flowers102, cars, dogs, nabirds)


def tar(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def mat(**variables: object) -> bytes:
    from scipy.io import savemat

    out = io.BytesIO()
    savemat(out, variables, do_compression=True)
    return out.getvalue()


def cell(*texts: str) -> np.ndarray:
    out = np.empty((len(texts), 1), object)
    out[:, 0] = texts
    return out


AIRCRAFT = {
    "train": [("1025794", "F/A-18"), ("0056978", "707-320"), ("0000002", "An-12")],
    "val": [("0481847", "ATR-42"), ("0810608", "An-12")],
    "test": [("1514522", "F-16A/B"), ("0747566", "Metroliner II ab")],
}


def aircraft_archive(**change: list) -> bytes:
    splits = {**AIRCRAFT, **change}
    top = "fgvc-aircraft-2013b/data/"
    files = {f"{top}images/{image}.jpg": image.encode() for split in splits.values() for image, _ in split}
    for split, pairs in {**splits, "trainval": splits["val"] + splits["train"]}.items():
        files[f"{top}images_variant_{split}.txt"] = "".join(f"{i} {v}\n" for i, v in pairs).encode()
    return tar(files, "w:gz")


@pytest.fixture
def synthetic(monkeypatch, remanifest):
    """synthetic(module, name=archive bytes...) -> a Source without the real set's fingerprints."""

    def make(module, **files):
        remanifest(module.NAME, files=files)
        source = lists.Source(**{**module.SOURCE.__dict__, "fingerprints": {}})
        monkeypatch.setattr(module, "SOURCE", source)
        return source

    return make


def test_aircraft_from_its_archive(synthetic, tmp_path):
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive()
    source = synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    with pytest.raises(DatasetError, match="row|training list"):  # test holds variants that train and val lack
        lists.load_set(source, tmp_path)
    home = tmp_path / "aircraft" / "lists"
    # ASCII order of all names: 707-320, ATR-42, An-12, F-16A/B, F/A-18, Metroliner II ab
    assert (home / "train_sub_list.csv").read_text() == (
        ",label,file_name\n0,4,1025794.jpg\n1,0,0056978.jpg\n2,2,0000002.jpg\n"
    )
    assert (home / "val_sub_list.csv").read_text().splitlines()[1:] == ["0,1,0481847.jpg", "1,2,0810608.jpg"]
    both = lists.read_csv(home / "train_all_sub_list.csv")  # train, then val, whatever the order of trainval
    assert both.names == tuple(f"{i}.jpg" for i, _ in AIRCRAFT["train"] + AIRCRAFT["val"])
    assert lists.read_csv(home / "test_all_sub_list.csv").labels.tolist() == [3, 5]
    assert aircraft.SOURCE.present(tmp_path) == str(tmp_path / "aircraft")


def test_images_that_another_process_unpacked_meanwhile_stay(synthetic, tmp_path, monkeypatch):
    pairs = {"train": [("0000001", "a")], "val": [("0000002", "a")], "test": [("0000003", "a")]}
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive(**pairs)
    source = synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    locked, images = lists.locked, tmp_path / "aircraft" / source.images
    before = []

    @contextlib.contextmanager
    def locked_late(folder):  # as if the other one had held the lock until now
        monkeypatch.setattr(lists, "locked", locked)
        lists.prepare(source, tmp_path)
        before.append(images.stat().st_ino)
        with locked(folder):
            yield

    monkeypatch.setattr(lists, "locked", locked_late)
    lists.prepare(source, tmp_path)
    assert before == [images.stat().st_ino]


def test_fingerprint_is_that_of_the_papers_file():
    found = Rows(np.array([0, 92], np.int64), ("1025794.jpg", "2123466.jpg"))
    import hashlib

    assert found.fingerprint() == hashlib.sha256(b"1025794.jpg 0\n2123466.jpg 92").hexdigest()[:16]
    assert aircraft.FINGERPRINTS["test"] == "1ba64b8baa718060" and len(aircraft.FINGERPRINTS) == 4


def test_aircraft_with_other_split_files_is_refused(remanifest, tmp_path):
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive()
    remanifest("aircraft", files={name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    with pytest.raises(DatasetError, match="train_sub_list.csv derived .* expected 41fe4f08ab844f5e"):
        lists.load_set(aircraft.SOURCE, tmp_path)
    assert not list((tmp_path / "aircraft" / "lists").glob("*.csv"))
    pairs = {"train": [("0000001", "a"), ("0000002", "b")], "val": [("0000003", "b")], "test": [("0000005", "a")]}
    raw = aircraft_archive(**pairs)
    remanifest("aircraft", files={name: raw})
    (tmp_path / "other" / "aircraft").mkdir(parents=True)
    (tmp_path / "other" / "aircraft" / name).write_bytes(raw)
    found = lists.load_set(aircraft.SOURCE, tmp_path / "other", accept_unverified=True)
    assert found.train.labels.tolist() == [0, 1, 1] and not found.verified
    with pytest.raises(DatasetError, match="not the published lists; delete them .* or --accept-unverified"):
        lists.load_set(aircraft.SOURCE, tmp_path / "other")


def test_images_unpacked_by_hand_in_the_authors_folder_are_not_fetched_again(make, tmp_path):
    make.place(tmp_path / "Stanford_dogs" / "Images" / "n01-a", {"0.jpg": b"x"})
    with pytest.raises(DatasetError, match=f"lists.tar .* is not in {tmp_path}/Stanford_dogs .*run: .*dogs --root"):
        lists.load_set(dogs.SOURCE, tmp_path, offline=True)


def test_real_aircraft_archive_where_present():
    """The four fingerprints, on the official files, on machines that have them."""
    home = aircraft.SOURCE.home(None)
    if home is None or not aircraft.SOURCE.complete(home):
        pytest.skip("FGVC-Aircraft is not in data/ (python -m datasets.aircraft)")
    derived = aircraft.derive(home)
    lists.check_fingerprints(aircraft.SOURCE, derived.rows)
    names = derived.class_names
    fixed = {21: "A300B4", 34: "ATR-42", 36: "An-12", 39: "BAE-125", 72: "F-16A/B", 92: "SR-20", 99: "Yak-42"}
    assert {i: names[i] for i in fixed} == fixed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"val": [("1025794", "ATR-42")]}, "an image is in two of the splits"),
        ({"val": [("481847", "ATR-42")]}, "line 1 is not `seven digits, space, variant`"),
        ({"test": [("1514522", "")]}, "line 1 is not"),
        ({"test": []}, "empty"),
    ],
)
def test_faulty_aircraft_files(synthetic, tmp_path, change, says):
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive(**change)
    source = synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    with pytest.raises(DatasetError) as error:
        lists.load_set(source, tmp_path)
    assert says in str(error.value)


def test_aircraft_val_lists_and_lists_placed_by_hand(synthetic, tmp_path):
    pairs = {
        "train": [("0000001", "a"), ("0000002", "b")],
        "val": [("0000003", "b"), ("0000004", "a")],
        "test": [("0000005", "a")],
    }
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive(**pairs)
    source = synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    val = lists.load_set(source, tmp_path, train="train", test="val")
    assert val.train.names == ("0000001.jpg", "0000002.jpg") and val.test.labels.tolist() == [1, 0]
    for split in ("train", "val", "test"):  # images and the authors' csv lists alone do as well
        (tmp_path / "aircraft" / aircraft.DATA / f"images_variant_{split}.txt").unlink()
    again = lists.load_set(source, tmp_path)
    assert len(again.train.names) == 4 and again.class_names == ("0", "1")


def split_files(home):
    (home / aircraft.DATA).mkdir(parents=True)
    for split, image in (("train", "0000001"), ("val", "0000002"), ("test", "0000003")):
        text = f"{image} a\n{int(image) + 10:07d} b\n"
        (home / aircraft.DATA / f"images_variant_{split}.txt").write_text(text, encoding="utf-8-sig")


def test_lists_are_derived_without_the_images(synthetic, tmp_path, capsys):
    source = synthetic(aircraft, **{"fgvc-aircraft-2013b.tar.gz": aircraft_archive()})
    split_files(tmp_path / "aircraft")
    for _ in range(2):
        assert cli.main("aircraft", ["--root", str(tmp_path), "--offline"]) == 2
    out, err = capsys.readouterr()
    assert err.count(f"lists derived in {tmp_path / 'aircraft' / 'lists'}; the images are not there yet") == 1
    assert err.count("aircraft: not all of fgvc-aircraft-2013b/data/images, ") == 2
    assert lists.read_csv(tmp_path / "aircraft/lists/test_all_sub_list.csv").names == ("0000003.jpg", "0000013.jpg")
    images = tmp_path / "aircraft" / source.images
    images.mkdir()
    for number in (1, 2, 3, 11, 12, 13):
        (images / f"{number:07d}.jpg").touch()
    assert cli.main("aircraft", ["--root", str(tmp_path), "--offline"]) == 0


def test_no_list_is_derived_from_a_file_with_another_digest(synthetic, make, tmp_path, monkeypatch):
    annotations = np.zeros((1, 1), [("relative_im_path", object), ("class", object), ("test", object)])
    annotations[0, 0] = ("car_ims/000001.jpg", 1, 0)
    right = {"cars_annos.mat": mat(annotations=annotations, class_names=cell("a")), "car_ims.tgz": b""}
    source = synthetic(cars, **right)
    annotations[0, 0] = ("car_ims/000001.jpg", 1, 1)
    make.place(tmp_path / "cars", {"cars_annos.mat": mat(annotations=annotations, class_names=cell("a"))})
    with pytest.raises(DatasetError, match="cars_annos.mat: .*expected"):
        lists.load_set(source, tmp_path, offline=True)
    assert not (tmp_path / "cars" / "lists").exists()


def test_files_placed_by_hand_next_to_their_images_are_checked(synthetic, make, tmp_path):
    splits = {"trnid": np.array([[1, 2]]), "valid": np.array([[3]]), "tstid": np.array([[4]])}
    right = {"imagelabels.mat": mat(labels=np.array([[1, 2, 2, 1]], np.uint8)), "setid.mat": mat(**splits)}
    source = synthetic(flowers102, **right, **{"102flowers.tgz": b""})
    other = mat(**{**splits, "trnid": np.array([[2, 1]])})
    home = make.place(tmp_path / "flowers102", {**right, "setid.mat": other})
    make.place(home / "jpg", {f"image_{i:05d}.jpg": b"x" for i in range(1, 5)})
    with pytest.raises(DatasetError, match="setid.mat: .*expected"):
        lists.load_set(source, tmp_path, offline=True)
    assert not (home / "lists").exists()
    assert lists.load_set(source, tmp_path, accept_unverified=True).train.names[0] == "image_00002.jpg"
    with pytest.raises(DatasetError, match="setid.mat: .*expected"):  # though its lists are there now
        lists.load_set(source, tmp_path, offline=True)


def test_flowers_from_its_files(synthetic, make, tmp_path):
    labels = np.array([[1, 1, 2, 2, 1, 2]], np.uint8)
    splits = {
        "trnid": np.array([[4, 1]], np.uint16),
        "valid": np.array([[2, 3]], np.uint16),
        "tstid": np.array([[6, 5]], np.uint16),
    }
    files = {
        "imagelabels.mat": mat(labels=labels),
        "setid.mat": mat(**splits),
        "102flowers.tgz": tar({f"jpg/image_{i:05d}.jpg": b"x" for i in range(1, 7)}, "w:gz"),
    }
    source = synthetic(flowers102, **files)
    make.place(tmp_path / "flowers102", files)
    found = lists.load_set(source, tmp_path)
    assert found.train.names == ("image_00004.jpg", "image_00001.jpg") and found.train.labels.tolist() == [1, 0]
    assert found.test.names == ("image_00006.jpg", "image_00005.jpg")
    val = lists.load_set(source, tmp_path, train="train", test="val")
    assert val.train.names == found.train.names and val.test.labels.tolist() == [0, 1]
    (tmp_path / "flowers102" / "setid.mat").write_bytes(mat(**{**splits, "tstid": np.array([[7, 5]], np.uint16)}))
    with pytest.raises(DatasetError, match="setid.mat: image numbers beyond 6"):
        flowers102.derive(tmp_path / "flowers102")


def test_a_file_is_copied_whole_or_not_at_all_and_a_full_disk_is_one_line(
    synthetic, make, tmp_path, capsys, monkeypatch
):
    annotations = np.zeros((1, 2), [("relative_im_path", object), ("class", object), ("test", object)])
    annotations[0, 0], annotations[0, 1] = ("car_ims/000001.jpg", 1, 0), ("car_ims/000002.jpg", 1, 1)
    files = {
        "cars_annos.mat": mat(annotations=annotations, class_names=cell("a")),
        "car_ims.tgz": tar({f"car_ims/{i:06d}.jpg": b"x" for i in (1, 2)}, "w:gz"),
    }
    synthetic(cars, **files)
    make.place(tmp_path, files)  # in the data folder itself, from where they are copied

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert cli.main("cars", ["--root", str(tmp_path), "--offline"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: cars: No space left on device; see --data-dir"
    assert sorted(p.name for p in (tmp_path / "cars").iterdir()) == [".lock"]


def test_cars_from_its_files(synthetic, make, tmp_path):
    kinds = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    annotations = np.empty((1, 12), kinds)
    for i in range(12):
        annotations[0, i] = (f"car_ims/{i + 1:06d}.jpg", 3, i % 2 + 1, int(i >= 10))
    names = np.empty((1, 2), object)
    names[0] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    files = {
        "cars_annos.mat": mat(annotations=annotations, class_names=names),
        "car_ims.tgz": tar({f"car_ims/{i + 1:06d}.jpg": b"x" for i in range(12)}, "w:gz"),
    }
    source = synthetic(cars, **files)
    make.place(tmp_path / "stanford_cars", files)  # the authors' name of the folder
    found = lists.load_set(source, tmp_path)
    assert (len(found.train.names), len(found.test.names)) == (10, 2)
    assert found.class_names[0] == "AM General Hummer SUV 2000" and found.train.names[0] == "car_ims/000001.jpg"
    written = lists.read_csv(source.home(tmp_path) / "lists" / "train_all_sub_list.csv")
    assert sorted(set(written.labels.tolist())) == [1, 2]  # as the official ones


def test_dogs_from_its_files(synthetic, make, tmp_path):
    train = [f"n0{b}-Breed_{b}/n0{b}_{i}.jpg" for b in (1, 2) for i in range(5)]
    test = [f"n0{b}-Breed_{b}/n0{b}_{i}.jpg" for b in (1, 2) for i in range(5, 7)]
    listed = {
        f"{split}_list.mat": mat(file_list=cell(*files), labels=np.array([[int(f[2])] for f in files], float))
        for split, files in (("train", train), ("test", test))
    }
    files = {"lists.tar": tar(listed, "w"), "images.tar": tar({f"Images/{f}": b"x" for f in train + test}, "w")}
    source = synthetic(dogs, **files)
    make.place(tmp_path / "dogs", files)
    found = lists.load_set(source, tmp_path)
    assert found.class_names == ("Breed_1", "Breed_2") and found.train.names == tuple(train)
    assert found.test.labels.tolist() == [0, 0, 1, 1]


def test_nabirds_from_its_files(make, tmp_path, remanifest):
    remanifest("nabirds", files={"nabirds.tar.gz": None})
    ids = [f"00{i}-ab" for i in range(12)]
    images = {k: f"0{817 if i % 2 else 295}/{k}.jpg" for i, k in enumerate(ids)}
    texts = {
        "images.txt": [f"{k} {v}" for k, v in images.items()],
        "image_class_labels.txt": [f"{k} {817 if i % 2 else 295}" for i, k in enumerate(ids)],
        "train_test_split.txt": [f"{k} {int(i < 10)}" for i, k in enumerate(ids)],
        "classes.txt": ["0 Birds", "295 Common Eider (Adult male)", "817 Oak Titmouse"],
    }
    home = tmp_path / "nabirds"
    make.place(home, {name: "\n".join(lines).encode() for name, lines in texts.items()})
    for name in images.values():
        (home / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "images" / name).touch()
    found = lists.load_set(nabirds.SOURCE, tmp_path)
    assert found.class_names == ("Common Eider (Adult male)", "Oak Titmouse")
    assert found.train.labels.tolist() == [0, 1] * 5 and found.test.labels.tolist() == [0, 1]
    (home / "train_test_split.txt").write_text("000-ab 2\n")
    with pytest.raises(DatasetError, match="image 000-ab of images.txt has no class number, or no split"):
        nabirds.derive(home)
    (home / "images.txt").write_text("one\n")
    with pytest.raises(DatasetError, match="images.txt: line 1 is not"):
        nabirds.derive(home)


@pytest.mark.parametrize("module", SETS, ids=lambda m: m.NAME)
def test_absent_sets_say_what_to_do(module, tmp_path):
    with pytest.raises(DatasetError, match=f"{module.NAME}: .*(by hand|registration)"):
        lists.load_set(module.SOURCE, tmp_path, offline=True)
    assert module.SOURCE.present(tmp_path) == "" and manifest.entry(module.NAME).classes > 50


def test_hostile_member_of_an_archive(synthetic, tmp_path):
    name, raw = "fgvc-aircraft-2013b.tar.gz", tar({"../evil.txt": b"x"}, "w:gz")
    source = synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    with pytest.raises(DatasetError, match="would leave the target folder"):
        lists.load_set(source, tmp_path)
    assert not (tmp_path / "evil.txt").exists()


def test_command_line(synthetic, tmp_path, capsys):
    pairs = {"train": [("0000001", "a"), ("0000002", "b")], "val": [("0000003", "b")], "test": [("0000005", "a")]}
    name, raw = "fgvc-aircraft-2013b.tar.gz", aircraft_archive(**pairs)
    synthetic(aircraft, **{name: raw})
    (tmp_path / "aircraft").mkdir()
    (tmp_path / "aircraft" / name).write_bytes(raw)
    assert cli.main("aircraft", ["--root", str(tmp_path), "--offline"]) == 0
    assert "aircraft: 3 train and 1 test images, 2 classes" in capsys.readouterr().out
    assert cli.main("aircraft", ["--root", str(tmp_path / "elsewhere"), "--offline"]) == 2


def test_sources_are_whole():
    for module in SETS:
        assert set(module.SOURCE.unpack) <= {f.name for f in manifest.entry(module.NAME).files}
        assert module.SOURCE.folders[0] == module.NAME and callable(module.SOURCE.derive)
