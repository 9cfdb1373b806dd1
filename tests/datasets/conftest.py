"""Files in the real formats, written here, and a local server that can misbehave. No network, no real data."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasets import download, fashion_mnist, fetch, manifest


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No waiting, no proxy between us and 127.0.0.1, nothing found outside tmp_path."""
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fetch, "_announced", set())
    monkeypatch.chdir(tmp_path)


# --- files ---------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, as the MNIST page defines it."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_family(count: int = 30, seed: int = 0) -> dict[str, bytes]:
    """The four contents of an MNIST-like set."""
    rng = np.random.default_rng(seed)
    out = {}
    for stem, n in (("train", count), ("t10k", count // 2)):
        out[f"{stem}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28)))
        out[f"{stem}-labels-idx1-ubyte"] = idx(np.arange(n) % 10)
    return out


def _py2(value: object) -> bytes:
    """Opcodes with which Python 2 (protocol 2) writes the few types of a CIFAR batch."""
    if isinstance(value, str):
        text = value.encode()
        return b"U" + bytes([len(text)]) + text
    if isinstance(value, np.ndarray):
        shape = b"".join(b"M" + struct.pack("<H", n) for n in value.shape)
        head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        data = b"T" + struct.pack("<i", value.size) + value.tobytes()
        return head + b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + data + b"tb"
    if isinstance(value, list):
        return b"](" + b"".join(_py2(v) for v in value) + b"e"
    return b"J" + struct.pack("<i", int(value))


def py2_pickle(pairs: dict[str, object]) -> bytes:
    """A dictionary as Python 2 pickles it: 8-bit strings, numpy.core names."""
    return b"\x80\x02}(" + b"".join(_py2(k) + _py2(v) for k, v in pairs.items()) + b"u."


def cifar10_files(count: int = 20, seed: int = 0, **change: object) -> dict[str, bytes]:
    """The six batches of CIFAR-10, `count` images each."""
    rng = np.random.default_rng(seed)
    files = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch: dict[str, object] = {"batch_label": name, "labels": [i % 10 for i in range(count)]}
        batch["data"] = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch["filenames"] = [f"{i}.png" for i in range(count)]
        files[name] = py2_pickle({**batch, **change})
    return files


def cifar100_files(seed: int = 0) -> dict[str, bytes]:
    """train, test and meta of CIFAR-100; class c belongs to superclass c mod 20."""
    rng = np.random.default_rng(seed)
    files = {}
    for name, count in (("train", 200), ("test", 100)):
        fine = [i % 100 for i in range(count)]
        batch = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "fine_labels": fine}
        files[name] = py2_pickle({**batch, "coarse_labels": [f % 20 for f in fine]})
    names = {"fine_label_names": [f"fine{i}" for i in range(100)]}
    files["meta"] = py2_pickle({**names, "coarse_label_names": [f"coarse{i}" for i in range(20)]})
    return files


def tar_gz(files: dict[str, bytes], folder: str = "") -> bytes:
    """A .tar.gz with those files, in a folder, as the CIFAR archives have them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        if folder:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, body in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def place(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder, making it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder


@pytest.fixture
def make():
    """The writers above."""
    return SimpleNamespace(
        idx=idx,
        idx_family=idx_family,
        py2_pickle=py2_pickle,
        cifar10_files=cifar10_files,
        gz=gzip.compress,
        cifar100_files=cifar100_files,
        tar_gz=tar_gz,
        place=place,
    )


# --- manifest ------------------------------------------------------------------------------------------------------


def _table(kind: str, name: str, file: str, body: bytes | None, urls: list[str]) -> str:
    digest = '{ evidence = "unknown" }'
    size = ""
    if body is not None:
        sha256 = hashlib.sha256(body).hexdigest()
        digest = f'{{ algorithm = "sha256", value = "{sha256}", evidence = "computed" }}'
        size = f"bytes = {len(body)}\n"
    return f'[[{name}.{kind}]]\nname = "{file}"\n{size}urls = {json.dumps(urls)}\ndigest = {digest}\n'


@pytest.fixture
def remanifest(monkeypatch, tmp_path):
    """remanifest("cifar10", files={name: bytes}, contents={...}, mirrors=[...]) replaces the manifest's entry."""
    written: dict[str, str] = {}
    original = manifest.entries()

    def write(name, files=None, contents=None, mirrors=()):
        old = dataclasses.asdict(original[name])
        keys = ("title", "classes", "train", "test", "shape", "homepage", "licence", "citation", "by_hand")
        text = f"[{name}]\nmirrors = []\n" + "".join(f"{k} = {json.dumps(old[k])}\n" for k in keys)
        for kind, given in (("file", files or {}), ("content", contents or {})):
            for file, body in given.items():
                urls = [m + file for m in mirrors] if kind == "file" else []
                text += _table(kind, name, file, body, urls)
        written[name] = text
        path = tmp_path / f"manifest{len(list(tmp_path.glob('manifest*.toml')))}.toml"
        path.write_text("\n".join(written.values()))
        monkeypatch.setattr(manifest, "PATH", path)
        return path

    return write


# --- server --------------------------------------------------------------------------------------------------------


class Server:
    """Serves `bodies` by path on 127.0.0.1; the other attributes make it misbehave."""

    def __init__(self):
        self.bodies: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range header
        self.cuts: list[int] = []  # after how many body bytes the next answers break off
        self.ranges = True
        self.length = True  # whether the size is told
        self.status: dict[str, int] = {}
        self.etag: str | None = '"one"'
        self.kind = "application/octet-stream"
        self.hold_after: int | None = None  # send that much, then wait for `release`
        self.release = threading.Event()
        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/"

    def close(self):
        self.release.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def _handler(server):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                asked = self.headers.get("Range")
                server.requests.append((self.path, asked))
                status = server.status.get(self.path, 200 if self.path in server.bodies else 404)
                if status != 200:
                    self.send_error(status)
                    return
                body, start = server.bodies[self.path], 0
                same = self.headers.get("If-Range") in (None, server.etag)
                if asked and server.ranges and same:
                    start = int(asked.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(body):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Type", server.kind)
                if server.etag:
                    self.send_header("ETag", server.etag)
                if server.length:
                    self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                rest = body[start:]
                if server.cuts:
                    rest = rest[: server.cuts.pop(0)]
                elif server.hold_after is not None:
                    self.wfile.write(rest[: server.hold_after])
                    rest = rest[server.hold_after :]
                    server.release.wait(30)
                try:
                    self.wfile.write(rest)
                except OSError:
                    pass
                self.close_connection = True

        return Handler


@pytest.fixture
def server(loopback):
    """A local HTTP server with Range support."""
    running = Server()
    yield running
    running.close()
