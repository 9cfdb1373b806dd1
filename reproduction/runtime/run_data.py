"""The data of a run: a run folder belongs to one content of its data set, as it belongs to one set of flags.

data.json holds the digests of what was loaded, and the fingerprint of the files (names, sizes, times) by which a
finished run is known again without reading them. Other data are refused; `--overwrite` starts again from nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets.identity import Seen, look
from reproduction.runtime.run_folder import Run, UserError, entries_of, finished_with, read_json, shown, write_json

FILE = "data.json"


def look_at(config: Mapping[str, Any]) -> Seen:
    """Returns what is known of a configuration's data set without reading it; call it before loading."""
    return look(str(config["dataset"]), Path(config["data_dir"]))


def already_done(folder: Path, config: Mapping[str, Any], data_set: str = "") -> bool:
    """Prints so if the same flags have finished in this folder on the same data; no framework is imported for it.

    Args:
      folder: run folder.
      config: resolved flags.
      data_set: name of the data set in `datasets.identity`; "" for the value of the flag `dataset`.
    Returns:
      Whether nothing is left to do. Where a file of the data is another or newer one, False: the script loads the
      data, and their digests decide.
    """
    if config.get("overwrite") or config.get("eval"):
        return False
    if not finished_with(folder, json.loads(json.dumps(config, default=str))):
        return False
    if name := data_set or config.get("dataset"):
        if not _unchanged(folder, look_at({**config, "dataset": name})):
            return False
    return Run(folder, dict(config), True).is_finished()


def is_finished(run: Run, seen: Seen, digests: Callable[[], Mapping[str, str]]) -> bool:
    """Whether an open run has nothing left to do on these data; prints so. Ties a new run to its data.

    Args:
      run: the open run.
      seen: the data's files, looked at before they were loaded.
      digests: loads the data if need be; digest of each part by name. May refuse the run of an earlier stage. Not
        called if the run has finished and no file has changed.
    Raises:
      UserError: the run was started on other data.
    """
    if not (run.done and _unchanged(run.folder, seen)):
        loaded = dict(digests())
        check_data(run.folder, loaded, "choose another --name, or --overwrite to start anew")
        if not seen.fingerprint and "dataset" in run.config:  # fetched just now
            seen = look_at(run.config)
        write_json(run.folder / FILE, {"digests": loaded, **seen._asdict()})
    return run.is_finished()


def check_data(folder: Path, digests: Mapping[str, str], hint: str) -> None:
    """Refuses to continue from a run folder (of this or an earlier stage) whose run used other data.

    A run from before digests were kept is taken to be of these data, with one warning; a folder that is no run
    folder (a released checkpoint) is not asked.

    Args:
      folder: run folder.
      digests: of the data in use, by name.
      hint: what to run, for the message.
    Raises:
      UserError: other data, naming the folder and what differs.
    """
    if (folder / FILE).exists():
        if names := differing(folder, digests):
            listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            raise UserError(f"{shown(folder)}: holds a run on other data ({listed} differs); {hint}")
    elif (folder / "config.json").exists() and len(entries_of(folder)) > 1:  # not its flags alone
        print(
            f"warning: {shown(folder)} was made before runs kept the digests of their data; it is taken to be of the "
            f"present ones ({', '.join(sorted(digests)[:3])}), which {FILE} keeps from now on",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):  # another user's stage 1
            write_json(folder / FILE, {"digests": dict(digests), "place": "", "fingerprint": ""})


def differing(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Returns the parts whose digests differ from those of the run in `folder`; none if it stores no digests."""
    if not (folder / FILE).exists():
        return []
    stored = _stored(folder)["digests"]
    return sorted(name for name in stored.keys() | digests.keys() if stored.get(name) != digests.get(name))


def _stored(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = read_json(folder / FILE, "digests", "place", "fingerprint")
    if not isinstance(stored["digests"], dict):
        raise UserError(f"{shown(folder / FILE)}: holds no digests; it is damaged, --overwrite starts anew")
    return stored


def _unchanged(folder: Path, seen: Seen) -> bool:
    """Whether the files are those of the run, or are gone from where it had them: nothing else is there to compare."""
    if not (folder / FILE).exists():
        return not seen.fingerprint
    stored = _stored(folder)
    same_place = stored["place"] == seen.place
    return same_place and (not seen.fingerprint or bool(stored["fingerprint"] == seen.fingerprint))
