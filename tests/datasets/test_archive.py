"""Archives that nobody vouches for: traversal, links, bombs, damage; and that nothing half-written stays."""

import errno
import io
import os
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import archive
from datasets.core import DatasetError

LIMIT = 1 << 20


def _tar(*members, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, body, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = body.decode()
            else:
                info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def _unpack(tmp_path, raw, name="a.tar.gz", limit=LIMIT, wanted=lambda n: n):
    (tmp_path / name).write_bytes(raw)
    return archive.extract(tmp_path / name, tmp_path / "out", limit, wanted)


def _clean(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".toml")


@pytest.mark.parametrize("kind", ["", "gz", "xz", "bz2"])
def test_tar_kinds(tmp_path, kind):
    name, mode = f"a.tar.{kind}".rstrip("."), f"w:{kind}"
    raw = _tar(("in/x", b"one", tarfile.REGTYPE), ("in/y", b"two", tarfile.REGTYPE), mode=mode)
    assert _unpack(tmp_path, raw, name, wanted={"in/x": "x"}.get) == ["x"]
    assert (tmp_path / "out" / "x").read_bytes() == b"one" and _clean(tmp_path) == [name, "out"]


def test_an_archive_may_begin_with_its_own_folder(tmp_path):
    raw = _tar(("./", b"", tarfile.DIRTYPE), ("./in/", b"", tarfile.DIRTYPE), ("./in/x", b"one", tarfile.REGTYPE))
    assert _unpack(tmp_path, raw) == ["./in/x"] and (tmp_path / "out" / "in" / "x").read_bytes() == b"one"


@pytest.mark.parametrize("top", ["", "./"])
def test_zip(tmp_path, top):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for folder in filter(None, (top, f"{top}in/")):
            z.mkdir(folder)
        z.writestr(f"{top}in/x", "one")
    assert _unpack(tmp_path, out.getvalue(), "a.zip") == [f"{top}in/x"]
    assert (tmp_path / "out" / "in" / "x").read_bytes() == b"one"


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "in/../../evil", "in\\..\\evil", "C:evil", "a\nb", "..", "."])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_traversal_is_refused_before_anything_is_written(tmp_path, name, kind):
    if kind == "tar":
        raw, file = _tar(("good", b"1", tarfile.REGTYPE), (name, b"2", tarfile.REGTYPE)), "a.tar.gz"
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            z.writestr("good", "1")
            z.writestr(zipfile.ZipInfo(name), "2")
        raw, file = out.getvalue(), "a.zip"
    with pytest.raises(DatasetError, match="would leave the target folder"):
        _unpack(tmp_path, raw, file)
    assert _clean(tmp_path) == [file] and not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(DatasetError, match="is a link or a device"):
        _unpack(tmp_path, _tar(("x", b"/etc/passwd", kind)))
    assert _clean(tmp_path) == ["a.tar.gz"]


def test_zip_link_is_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        info = zipfile.ZipInfo("x")
        info.external_attr = 0o120777 << 16
        z.writestr(info, "/etc/passwd")
    with pytest.raises(DatasetError, match="is a link or a device"):
        _unpack(tmp_path, out.getvalue(), "a.zip")


def test_bombs_stop_at_the_limit(tmp_path):
    big = bytes(30 << 20)
    for raw, name in [(_tar(("x", big, tarfile.REGTYPE)), "a.tar.gz"), (_zip(big), "a.zip")]:
        assert len(raw) < 1 << 20
        with pytest.raises(DatasetError, match="unpacks to more than it should"):
            _unpack(tmp_path, raw, name)
        assert not (tmp_path / "out").exists() and not (tmp_path / ".out.unpacking").exists()


def _zip(body):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x", body)
    return out.getvalue()


def test_bomb_in_an_unwanted_member_or_a_header_counts_too(tmp_path):
    raw = _tar(("unwanted", bytes(30 << 20), tarfile.REGTYPE), ("x", b"1", tarfile.REGTYPE))
    with pytest.raises(DatasetError, match="unpacks to more"):
        _unpack(tmp_path, raw, wanted={"x": "x"}.get)
    header = io.BytesIO()
    with tarfile.open(fileobj=header, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"comment": "y" * (30 << 20)}
        tar.addfile(info)
    with pytest.raises(DatasetError, match="unpacks to more"):
        _unpack(tmp_path, header.getvalue())


def test_doubled_names_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="occurs twice"):
        _unpack(tmp_path, _tar(("x", b"1", tarfile.REGTYPE), ("x", b"2", tarfile.REGTYPE)))


def test_names_are_not_compared_with_all_others(tmp_path):
    compared = []

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

    raw = _tar(*((f"{i}.jpg", b"x", tarfile.REGTYPE) for i in range(100)))
    assert len(_unpack(tmp_path, raw, wanted=Name)) == 100 and len(compared) < 100


def test_full_disk_is_not_blamed_on_the_archive(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "open", lambda path, mode: Full(path, mode), raising=False)
    with pytest.raises(DatasetError, match="cannot unpack a.tar.gz there .No space left on device"):
        _unpack(tmp_path, _tar(("x", b"1", tarfile.REGTYPE)))
    assert _clean(tmp_path) == ["a.tar.gz"]


def test_unknown_kind(tmp_path):
    with pytest.raises(DatasetError, match="not an archive of a known kind"):
        _unpack(tmp_path, b"x", "a.rar")


def test_what_a_killed_process_left_is_replaced(tmp_path, make):
    make.place(tmp_path / ".out.unpacking", {"half": b"x"})
    _unpack(tmp_path, _tar(("x", b"1", tarfile.REGTYPE)))
    assert _clean(tmp_path) == ["a.tar.gz", "out"] and os.listdir(tmp_path / "out") == ["x"]


def test_target_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    real, moved = os.replace, []

    def replace(source, target):
        assert not target.exists() and sorted(os.listdir(source)) == ["x", "y"]
        moved.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    _unpack(tmp_path, _tar(("x", b"1", tarfile.REGTYPE), ("y", b"2", tarfile.REGTYPE)))
    assert moved == [tmp_path / "out"]


GOOD = _tar(("in/x", bytes(range(200)), tarfile.REGTYPE), ("in/y", b"two", tarfile.REGTYPE))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_archives_unpack_right_or_raise_dataset_error(tmp_path_factory, data):
    import gzip

    inner = bytearray(gzip.decompress(GOOD))
    for _ in range(data.draw(st.integers(0, 3))):
        inner[data.draw(st.integers(0, 1600))] = data.draw(st.integers(0, 255))
    raw = gzip.compress(bytes(inner), 1)
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        _unpack(folder, raw)
    except DatasetError:
        assert _clean(folder) == ["a.tar.gz"]
    else:
        assert _clean(folder) == ["a.tar.gz", "out"]
