"""Downloads: resumed, verified, from mirrors in order, locked; killed and started again."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import download, fetch, manifest
from datasets.core import DatasetError, NoNetwork

REPO = Path(__file__).resolve().parents[2]
NAME = "test_32x32.mat"
BODY = np.random.default_rng(0).bytes(700_001)


@pytest.fixture
def offer(server, remanifest, tmp_path):
    """offer(mirrors=..., body=...) makes a set of one file; returns a function that fetches it."""

    def prepare(body=BODY, mirrors=None, known=True):
        server.bodies.setdefault(f"/{NAME}", BODY)
        remanifest("svhn", files={NAME: body if known else None}, mirrors=mirrors or [server.url])
        return lambda: fetch.fetch(manifest.entry("svhn"), manifest.entry("svhn").files[0], tmp_path / "svhn")

    return prepare


def _left(tmp_path):
    return sorted(p.name for p in (tmp_path / "svhn").rglob("*") if p.name != ".lock")


def test_plain_download(offer, server, tmp_path, capsys):
    path = offer()()
    assert path.read_bytes() == BODY and _left(tmp_path) == [NAME]
    assert server.requests == [(f"/{NAME}", None)]
    assert "non-commercial" in capsys.readouterr().err


def test_cut_connections_are_resumed_where_they_stopped(offer, server, tmp_path):
    server.cuts = [200_000, 1, 300_000]
    assert offer()().read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=200000-", "bytes=200001-", "bytes=500001-"]
    assert _left(tmp_path) == [NAME]


def test_server_without_ranges_starts_again(offer, server):
    server.ranges, server.cuts = False, [200_000]
    assert offer()().read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_part_left_by_an_earlier_process_is_continued(offer, server, make, tmp_path):
    make.place(tmp_path / "svhn" / ".incoming", {f"{NAME}.partial": BODY[:123_456], "tmpabc": b"left over"})
    assert offer()().read_bytes() == BODY
    assert server.requests == [(f"/{NAME}", "bytes=123456-")] and _left(tmp_path) == [NAME]


@pytest.mark.parametrize("part", [BODY[:1000][::-1], BODY[::-1], BODY + b"more", b""])
def test_a_wrong_part_is_thrown_away_and_fetched_anew(offer, make, tmp_path, part):
    make.place(tmp_path / "svhn" / ".incoming", {f"{NAME}.partial": part})
    assert offer()().read_bytes() == BODY and _left(tmp_path) == [NAME]


def test_changed_file_on_the_server_is_not_glued_to_the_old_part(offer, server, make, tmp_path):
    note = json.dumps({"url": server.url + NAME, "validator": '"old"'}).encode()
    make.place(tmp_path / "svhn" / ".incoming", {f"{NAME}.partial": b"x" * 500, f"{NAME}.partial.json": note})
    assert offer(known=False)().read_bytes() == BODY  # no digest could have told; If-Range did


@pytest.mark.parametrize(("mirror", "validator"), [("http://127.0.0.1:1/", '"one"'), ("", None)])
def test_part_of_unknown_digest_is_only_continued_if_the_server_can_tell(
    offer, server, make, tmp_path, mirror, validator
):
    note = json.dumps({"url": (mirror or server.url) + NAME, "validator": validator}).encode()
    make.place(tmp_path / "svhn" / ".incoming", {f"{NAME}.partial": b"x" * 500, f"{NAME}.partial.json": note})
    assert offer(known=False)().read_bytes() == BODY
    assert server.requests == [(f"/{NAME}", None)]


def test_part_of_another_file_stays(offer, make, tmp_path):
    home = make.place(tmp_path / "svhn" / ".incoming", {"extra.mat.partial": b"x", "extra.mat.partial.json": b"{}"})
    assert offer()().read_bytes() == BODY
    assert sorted(p.name for p in home.iterdir()) == ["extra.mat.partial", "extra.mat.partial.json"]


def test_mirrors_are_tried_in_order_and_all_reasons_told(offer, server, tmp_path):
    bad = {"/missing/": 404, "/forbidden/": 403, "/broken/": 500}
    server.status = {f"{p}{NAME}": status for p, status in bad.items()}
    server.bodies |= {f"/wrong/{NAME}": BODY[:-1] + b"!", f"/short/{NAME}": BODY[:-1]}
    paths = ["missing/", "forbidden/", "broken/", "wrong/", "short/"]
    mirrors = [server.url + p for p in paths] + ["http://127.0.0.1:9/", "ftp://127.0.0.1/", "file:///etc/"]
    with pytest.raises(DatasetError) as caught:
        offer(mirrors=mirrors)()
    message = str(caught.value)
    words = ["404", "403", "500", "not the file", "700,000 bytes, expected", "refused", "only http", "only http"]
    places = [message.index(m) for m in mirrors]
    assert places == sorted(places)
    for word, mirror in zip(words, mirrors, strict=True):
        assert word in message[message.index(mirror) :], word
    assert "place it by hand" in message and "try again" in message and not (tmp_path / "svhn" / NAME).exists()


def test_second_mirror_rescues(offer, server):
    server.status[f"/a/{NAME}"] = 404
    assert offer(mirrors=[server.url + "a/", server.url])().read_bytes() == BODY


def test_part_from_one_mirror_is_continued_at_the_next(offer, server):
    server.bodies[f"/a/{NAME}"] = BODY
    server.cuts = [300_000, 0, 0, 0]
    assert offer(mirrors=[server.url + "a/", server.url])().read_bytes() == BODY
    assert server.requests[-1] == (f"/{NAME}", "bytes=300000-")


def test_server_that_never_stops_is_stopped(offer, server):
    server.bodies[f"/{NAME}"] = BODY + bytes(5_000_000)
    with pytest.raises(DatasetError, match="the server offers 5,700,001 bytes, expected 700,001"):
        offer()()


def test_server_that_tells_no_size_is_stopped_too(offer, server, tmp_path):
    server.bodies[f"/{NAME}"] = BODY + bytes(5_000_000)
    server.length = False
    with pytest.raises(DatasetError, match="sends more than 700,001 bytes"):
        offer()()
    assert _left(tmp_path) == []  # what came is not the file, so no part of it is continued


@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_unknown_size_may_not_fill_the_disk(offer, server, monkeypatch, tmp_path, length):
    monkeypatch.setattr(download, "MOST_BYTES", 700_000)
    server.length = length
    with pytest.raises(DatasetError, match="more than (the )?700,000"):
        offer(known=False)()
    assert _left(tmp_path) == []


def test_a_web_page_is_no_file(offer, server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DatasetError, match="the server sends a web page, not the file"):
        offer(known=False)()
    assert _left(tmp_path) == []


def test_cut_without_a_told_size_is_noticed(offer, server):
    server.length, server.cuts = False, [100_000]
    assert offer()().read_bytes() == BODY
    assert server.requests[-1] == (f"/{NAME}", "bytes=100000-")


def test_wrong_bytes_leave_nothing_under_the_files_name(offer, server, tmp_path):
    server.bodies[f"/{NAME}"] = BODY[::-1]
    with pytest.raises(DatasetError, match="what it sends is not the file"):
        offer()()
    assert NAME not in _left(tmp_path)


def test_offline_asks_no_server(offer, server, monkeypatch, tmp_path):
    monkeypatch.setenv("DATASETS_OFFLINE", "1")
    says = f"{NAME} .700,001 bytes, sha256 .* downloads are off .*place it by hand.* --root {tmp_path}$"
    with pytest.raises(DatasetError, match=says):
        offer()()
    assert server.requests == []
    monkeypatch.setenv("DATASETS_OFFLINE", "0")
    assert offer()().read_bytes() == BODY


def test_full_disk_is_told_before_the_first_byte(offer, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(DatasetError, match="needs 700,001 more bytes, the disk has 1,000 free"):
        offer()()
    assert server.requests == []


def test_disk_that_fills_up_stops_at_once_and_keeps_the_part(offer, server, monkeypatch, tmp_path):
    real = os.replace

    def full(source, target):
        if str(target).endswith(".partial.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DatasetError, match="No space left on device.*run the same command again"):
        offer(mirrors=[server.url, server.url + "second/"])()
    assert len(server.requests) == 1


def test_unknown_host_is_not_asked_again(offer, monkeypatch, tmp_path):
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(NoNetwork, match="svhn: no network, and .* is not on this machine") as caught:
        offer(mirrors=["http://a.invalid/", "http://b.invalid/"])()
    assert asked == [f"http://a.invalid/{NAME}", f"http://b.invalid/{NAME}"] and _left(tmp_path) == []
    assert len(str(caught.value)) < 200 and "mnist5k needs no download" in str(caught.value)


def test_folder_that_cannot_be_made(offer, tmp_path):
    (tmp_path / "svhn").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="cannot be written to"):
        offer()()


def test_unknown_digest_is_shown_stored_and_compared(offer, remanifest, tmp_path, capsys):
    from datasets.verify import check_file

    path = offer(known=False)()
    file = manifest.entry("svhn").files[0]
    sha256 = hashlib.sha256(BODY).hexdigest()
    assert check_file(path, file).sha256 == sha256 and not check_file(path, file).verified
    assert capsys.readouterr().err.count(sha256) == 1
    assert json.loads((tmp_path / "svhn" / "digests.json").read_text()) == {NAME: sha256}
    path.write_bytes(b"another file")
    with pytest.raises(DatasetError, match=f"but {sha256} was stored"):
        check_file(path, file)
    assert not check_file(path, file, accept_unverified=True).verified
    (tmp_path / "svhn" / "digests.json").write_text("[]")
    with pytest.raises(DatasetError, match="digests.json: not a table"):
        check_file(path, file)


def test_advice_is_to_delete_only_what_is_fetched_again(make, server, remanifest, tmp_path):
    from datasets.verify import check_file

    home = make.place(tmp_path / "svhn", {NAME: b"another file"})
    for mirrors, advice in (([server.url], "delete it to fetch it again"), ([], "replace it .see docs/data.md.")):
        remanifest("svhn", files={NAME: BODY}, mirrors=mirrors)
        with pytest.raises(DatasetError, match=f"expected 700,001; {advice}, or use it with --accept-unverified"):
            check_file(home / NAME, manifest.entry("svhn").file(NAME))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_any_series_of_cuts_gives_the_same_bytes(tmp_path_factory, cuts, ranges):
    body = BODY[:1000]
    folder = tmp_path_factory.mktemp("any")

    class Response:
        status = 200
        headers: dict = {}

        def __init__(self, data):
            self.data = data

        def read(self, size):
            out, self.data = self.data[:size], self.data[size:]
            return out

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

    left = list(cuts)

    def urlopen(request, timeout):
        start = 0
        if ranges and (asked := request.get_header("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        cut = left.pop(0) if left else len(body)
        response = Response(body[start : start + cut])
        response.headers = {"Content-Length": str(len(body) - start)}
        if start:
            response.status = 206
            response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return response

    original = download.urllib.request.urlopen
    download.urllib.request.urlopen = urlopen
    try:
        get = download.RangeDownloader(folder / "x.partial", len(body), interchangeable=True)
        try:
            get("http://127.0.0.1/x", str(folder / "out"))
        except ConnectionError:
            assert cuts.count(0) + (0 if ranges else len(cuts)) >= download.STALLS - 1
        else:
            assert (folder / "out").read_bytes() == body and list(folder.iterdir()) == [folder / "out"]
    finally:
        download.urllib.request.urlopen = original


# --- several processes, and kill -9 --------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
import datasets
from datasets import archive, manifest
manifest.PATH = Path(sys.argv[1])
if sys.argv[3] == "slow":
    write = archive._write
    def slow(stream, path, left, name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.read(100))
        print("unpacking", flush=True)
        import time; time.sleep(60)
    archive._write = slow
ds = datasets.load("cifar10", sys.argv[2])
print("loaded", ds.verified, int(ds.train_images.sum()), flush=True)
"""


@pytest.fixture
def child(make, remanifest, server, tmp_path):
    """Starts processes that load a CIFAR-10 served by us."""
    files = make.cifar10_files(count=40)
    packed = make.tar_gz(files, "cifar-10-batches-py")
    server.bodies["/cifar-10-python.tar.gz"] = packed
    path = remanifest("cifar10", files={"cifar-10-python.tar.gz": packed}, contents=files, mirrors=[server.url])
    started = []

    def start(mode="plain"):
        command = [sys.executable, "-c", CHILD, str(path), str(tmp_path / "data"), mode]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the child did not get that far"
        time.sleep(0.01)


def test_two_processes_download_once(child, server):
    server.hold_after = 1000
    first, second = child(), child()
    _wait_for(lambda: server.requests)
    server.release.set()
    outputs = [p.communicate(timeout=60) for p in (first, second)]
    assert outputs[0][0] == outputs[1][0] and outputs[0][0].startswith("loaded True"), outputs
    assert len(server.requests) == 1


def test_kill_9_during_download_then_again(child, server, tmp_path):
    partial = tmp_path / "data" / "cifar10" / ".incoming" / "cifar-10-python.tar.gz.partial"
    server.hold_after = 300_000
    process = child()
    _wait_for(lambda: partial.exists() and partial.stat().st_size > 100_000)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "data" / "cifar10" / "cifar-10-python.tar.gz").exists()
    size = partial.stat().st_size
    server.hold_after = None
    server.release.set()
    out, err = child().communicate(timeout=60)
    assert out.startswith("loaded True"), err
    assert server.requests[-1][1] == f"bytes={size}-"
    assert not partial.parent.exists()


def test_kill_9_while_unpacking_then_again(child, server, tmp_path):
    process = child("slow")
    assert process.stdout.readline() == "unpacking\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    home = tmp_path / "data" / "cifar10"
    assert not (home / "cifar-10-batches-py").exists()
    out, err = child().communicate(timeout=60)
    assert out.startswith("loaded True"), err
    names = sorted(p.name for p in home.iterdir())
    assert names == [".lock", "cifar-10-batches-py", "cifar-10-python.tar.gz"] and len(server.requests) == 1
