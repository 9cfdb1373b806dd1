"""What a program prints cannot end it: other encodings than UTF-8, and a reader such as `head` that has left."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def any_terminal() -> Iterator[None]:
    """Wraps a program's main, also as a decorator.

    Characters that the terminal's encoding lacks are printed as escapes (`\\u2713`), by child processes too. If the
    reader of the output has closed the pipe, the program ends without a message, with the exit status of SIGPIPE.
    """
    os.environ.setdefault("PYTHONIOENCODING", ":backslashreplace")  # for the processes that this one starts
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError:
        if not _reader_left():
            raise  # another pipe than the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        raise SystemExit(128 + signal.SIGPIPE) from None


def _reader_left() -> bool:
    """Whether the output is a pipe whose other end is closed."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, or replaced by something that is no file
        return False
    pipe = select.poll()
    pipe.register(output, 0)  # errors and hang-ups are reported in any case
    return bool(pipe.poll(0))


def _flush() -> None:
    if sys.stdout is not None and not sys.stdout.closed:  # None: started with `>&-`
        sys.stdout.flush()
