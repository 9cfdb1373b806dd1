"""The numbers of a run, step by step: metrics.jsonl and TensorBoard events, and how they are read again."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduction.runtime.run_folder import UserError, shown, write_bytes


class MetricsLog:
    """Scalars of a run: metrics.jsonl for programs, TensorBoard events to look at.

    One line per call: {"step": ..., name: value, ...}. On resume the lines after the checkpoint's step are cut, so
    that a killed run leaves the same file as an undisturbed one. TensorBoard drops the same steps.
    """

    def __init__(self, folder: Path, resume_step: int = -1, subfolder: str = "tensorboard"):
        """Opens the log.

        Args:
          folder: the run folder.
          resume_step: last step that counts; lines with a larger step are dropped. -1 starts anew.
          subfolder: folder of the event files below `folder`.
        """
        import tensorboard.compat

        if "tensorflow" not in sys.modules:  # else tensorboard imports TensorFlow just to write files
            sys.modules.setdefault("tensorboard.compat.notf", tensorboard.compat)
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._path = folder / "metrics.jsonl"
        lines = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        write_bytes(self._path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file = open(self._path, "a", buffering=1, encoding="utf-8")
        events = folder / subfolder
        if resume_step < 0:
            shutil.rmtree(events, ignore_errors=True)
        self._folder, self._new_writer = events, EventFileWriter
        self._writers: dict[str, Any] = {}
        self._proto, self._summary = event_pb2, summary_pb2

    def _writer(self, split: str, step: int) -> Any:
        if split not in self._writers:
            self._writers[split] = self._new_writer(str(self._folder / split))
            if step > 0:  # a START event makes TensorBoard drop what a killed run wrote from this step on
                start = self._proto.SessionLog(status=self._proto.SessionLog.START)
                self._writers[split].add_event(self._proto.Event(step=step, session_log=start))
        return self._writers[split]

    def write(
        self, step: int, values: Mapping[str, float], split: str = "", tensorboard_step: int | None = None
    ) -> None:
        """Appends one line and one event per value.

        Args:
          step: the step the resume logic counts in.
          values: name -> number; the line has the names as `<split>/<name>` if there is a split.
          split: "train", "test" or ""; event files of a split are in a folder of that name.
          tensorboard_step: x-axis of the event file, if it differs from step (Class2Str counts samples).
        """
        prefix = f"{split}/" if split else ""
        self._file.write(json.dumps({"step": step, **{prefix + name: value for name, value in values.items()}}) + "\n")
        scalars = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        at = step if tensorboard_step is None else tensorboard_step
        event = self._proto.Event(step=at, wall_time=time.time(), summary=self._summary.Summary(value=scalars))
        self._writer(split, at).add_event(event)

    def close(self) -> None:
        """Closes metrics.jsonl and the event files."""
        self._file.close()
        for writer in self._writers.values():
            writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; an incomplete last line (a kill) is left out, a missing file is empty."""
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        values = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)}: not JSON lines ({error}); --overwrite starts anew") from None
    if not all(isinstance(value, dict) and type(value.get("step")) is int for value in values):
        raise UserError(f"{shown(path)}: a line without its step; --overwrite starts anew")
    return values
