"""An HTTP downloader for pooch that continues a stopped download (pooch's own starts again from nothing)."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.files import write_json

CHUNK = 1 << 16
TIMEOUT_S = 30.0
PAUSE_S = 1.0
# Attempts in a row that bring no new byte, before the address is given up.
STALLS = 3
# A file of unknown size may not fill the disk.
MOST_BYTES = 16 << 30
# Trouble on our side: no other address will cure it.
DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES})
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


class Refused(OSError):
    """The server answered, but with something that cannot be the file; trying again will not help."""


class Unreachable(Refused):
    """The address has no host that answers: there is no network, or it is not let through."""


class RangeDownloader:
    """Downloads one file into `partial`, resuming it if it is there, then moves it to where pooch wants it.

    A JSON file next to `partial` contains the address and its validator (ETag or date), so that a resumed
    transfer continues the same version of the file (If-Range), not another. A file without digest and validator is
    fetched anew.
    """

    def __init__(self, partial: Path, size: int | None, interchangeable: bool) -> None:
        """Prepares a transfer.

        Args:
          partial: where the bytes collect; what an earlier process left there is continued.
          size: the file's size in bytes, None if unknown.
          interchangeable: the digest is known, so that a part from one mirror may be continued from another.
        """
        self.partial = partial
        self.note = partial.with_name(partial.name + ".json")
        self.size = size
        self.interchangeable = interchangeable
        self.resumed = False

    def __call__(self, url: str, output_file: str, pooch: Any = None, check_only: bool = False) -> None:
        """Fetches `url` into `output_file` (pooch's interface).

        Raises:
          Refused: not http, an error status, another size than expected.
          Unreachable: no host of this name, or no way to it.
          OSError, http.client.HTTPException: the connection failed STALLS times in a row.
        """
        if not url.lower().startswith(("http://", "https://")):
            raise Refused("only http and https addresses are fetched")
        stalls = 0
        while True:
            before = self._have()
            try:
                self._transfer(url)
                break
            except (Refused, PermissionError):
                raise
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
                    raise
                stalls = 0 if self._have() > before else stalls + 1
                if stalls >= STALLS:
                    raise
                time.sleep(PAUSE_S * 2**stalls)
        self.note.unlink(missing_ok=True)
        os.replace(self.partial, output_file)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def discard(self) -> None:
        """Deletes the part that was downloaded so far."""
        self.partial.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"User-Agent": "datasets-preparer", "Accept-Encoding": "identity"}
        have = self._have()
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            known_url, validator = str(note["url"]), note["validator"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            known_url, validator = "", None
        same = bool(known_url == url and validator)
        if have == 0 or (self.size is not None and have > self.size) or not (same or self.interchangeable):
            self.discard()
            return headers
        headers["Range"] = f"bytes={have}-"
        if same:
            headers["If-Range"] = str(validator)
        return headers

    def _transfer(self, url: str) -> None:
        if self.size is not None and self._have() == self.size:
            return
        headers = self._headers(url)
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self.discard()
                raise ConnectionError("the part fetched so far does not fit the server's file") from None
            if error.code in (408, 429) or error.code >= 500:
                raise ConnectionError(f"HTTP status {error.code}") from None
            raise Refused(f"HTTP status {error.code}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, socket.gaierror):
                raise Unreachable(f"host not found ({error.reason.strerror}); no network?") from None
            if isinstance(error.reason, OSError) and error.reason.errno in NO_ROUTE:
                raise Unreachable(f"{error.reason.strerror}; no network?") from None
            raise
        with response:
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise Refused("the server sends a web page, not the file")
            start, total = self._extent(response)
            if self.size is not None and total is not None and total != self.size:
                raise Refused(f"the server offers {total:,} bytes, expected {self.size:,}")
            if self.size is None and total is not None and total > MOST_BYTES:
                raise Refused(
                    f"the server offers {total:,} bytes, more than the {MOST_BYTES:,} allowed if the size is unknown"
                )
            # A strong ETag or a date; weak ETags are not allowed in If-Range.
            etag = response.headers.get("ETag")
            validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
            write_json(self.note, {"url": url, "validator": validator})
            self._copy(response, start, total)

    def _extent(self, response: Any) -> tuple[int, int | None]:
        """First byte of this answer and size of the whole file."""
        if response.status == 206:
            extent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not extent or int(extent[1]) != self._have():
                self.discard()
                raise ConnectionError("the server answered with another part than asked for")
            self.resumed = True
            return int(extent[1]), None if extent[3] == "*" else int(extent[3])
        if response.status != 200:
            raise Refused(f"HTTP status {response.status}")
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None

    def _copy(self, response: Any, start: int, total: int | None) -> None:
        limit = total if total is not None else self.size if self.size is not None else MOST_BYTES
        name = self.partial.name.removesuffix(".partial")
        with (
            open(self.partial, "ab" if start else "wb") as out,
            tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=None) as bar,
        ):
            done = start
            while block := response.read(CHUNK):
                if done + len(block) > limit:
                    self.discard()
                    raise Refused(f"the server sends more than {limit:,} bytes")
                out.write(block)
                done += len(block)
                bar.update(len(block))
            out.flush()
            os.fsync(out.fileno())
        expected = total if total is not None else self.size
        if expected is not None and done < expected:
            raise ConnectionError(f"the connection ended after {done:,} of {expected:,} bytes")
