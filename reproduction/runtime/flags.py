"""Command lines: the authors' flags verbatim in one group, our additions in another, and errors of one line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from datasets import DatasetError, check_name
from datasets.terminal import any_terminal
from reproduction.runtime import faults
from reproduction.runtime.run_folder import DATA_ROOT, RUNS_ROOT, UserError

Resolved = TypeVar("Resolved")
FlagTable = dict[str, dict[str, Any]]  # flag -> what argparse takes
PRINT_CONFIG: FlagTable = {
    "--print-config": {"action": "store_true", "help": "print the resolved flags as JSON and exit"},
}
_batch: list[tuple[str, int]] = []  # flag and value of this process's batch size, for messages


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """The resolved flags that every script has; each paper's Config adds its own.

    Attributes:
      data_dir: folder of the data sets.
      runs_dir: folder of the run folders.
      name: the run folder below it.
      seed: all random draws depend on it alone.
      device: auto, cpu, cuda or cuda:N.
      eval: checkpoint to evaluate, or None to train.
      row: row of the table this run belongs to, or None.
      overwrite: start again from nothing even if the run folder contains a run.
      accept_unverified: accept data files with another checksum.
    """

    data_dir: str
    runs_dir: str
    name: str
    seed: int
    device: str
    eval: str | None
    row: str | None
    overwrite: bool
    accept_unverified: bool


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; a bad value ends in one line that names flag, value and what is allowed."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.originals = self.add_argument_group(
            "the authors' flags (names, types and, unless a line says otherwise, defaults as released)"
        )
        self.additions = self.add_argument_group("additions")

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += f" (see {self.prog} --help)"
        self.exit(2, f"{self.prog}: error: {message}\n")


def flag(group: argparse._ArgumentGroup, name: str, **options: Any) -> None:
    """Adds a flag of ours under its dashed name, with the underscore spelling accepted too."""
    spellings = [name]
    if "-" in name[2:]:
        spellings.append("--" + name[2:].replace("-", "_"))
    group.add_argument(*spellings, **options)


def add_flags(group: argparse._ArgumentGroup, table: FlagTable) -> None:
    """Adds the flags of a table in its order."""
    for name, options in table.items():
        flag(group, name, **options)


def whole(minimum: int, maximum: float = float("inf")) -> Callable[[str], int]:
    """Type of a whole-number flag in [minimum, maximum]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            high = "" if maximum == float("inf") else f" and <= {maximum}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {minimum}{high}")
        return value

    return parse


seed = whole(0, 2**32 - 1)  # NumPy's generators take no larger one


def number(minimum: float, maximum: float = float("inf"), above: bool = False) -> Callable[[str], float]:
    """Type of a finite real flag in [minimum, maximum], or (minimum, maximum] if `above` is set."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        allowed = (value > minimum if above else value >= minimum) and value <= maximum and abs(value) < float("inf")
        if not allowed:
            low = ">" if above else ">="
            high = "" if maximum == float("inf") else f" and <= {maximum:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {low} {minimum:g}{high}")
        return value

    return parse


def dataset_name(text: str) -> str:
    """Type of --dataset: a known data set or folder:PATH."""
    try:
        return check_name(text)
    except DatasetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def is_set(args: argparse.Namespace, name: str) -> bool:
    """Whether a flag is on the command line (`--model x` or `--model=x`), not only a default."""
    spellings = (f"--{name}", f"--{name.replace('_', '-')}")
    return any(word in spellings or word.startswith(tuple(f"{s}=" for s in spellings)) for word in args.argv)


def device(text: str) -> str:
    """Type of --device: auto, cpu, cuda or cuda:N."""
    name, _, index = text.partition(":")
    if text in ("auto", "cpu", "cuda") or (name == "cuda" and index.isdecimal()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, cuda or cuda:N")


def add_common(parser: Parser, paper: str) -> None:
    """Adds the flags that every script has; one the authors defined themselves stays theirs."""
    common: FlagTable = {
        "--data-dir": {
            "default": str(DATA_ROOT),
            "metavar": "DIR",
            "help": "data sets (default: data/ of the repository)",
        },
        "--runs-dir": {
            "default": str(RUNS_ROOT / paper),
            "metavar": "DIR",
            "help": f"run folders (default: runs/{paper}/ of the repository)",
        },
        "--name": {"default": "default", "help": "run folder below --runs-dir"},
        "--seed": {"type": seed, "default": 0, "help": "all random draws depend on it alone (default 0)"},
        "--device": {"type": device, "default": "auto", "help": "auto, cpu, cuda or cuda:N (default auto)"},
        "--eval": {"metavar": "CHECKPOINT", "help": "evaluate this checkpoint on the whole test set, train nothing"},
        "--row": {"metavar": "ROW", "help": "row of the table this run belongs to: <dataset>-<profile>[-variant]"},
        "--overwrite": {"action": "store_true", "help": "start anew even if the run folder holds a run"},
        "--accept-unverified": {
            "action": "store_true",
            "help": "take hand-placed data files with another checksum; the record says so and is never judged",
        },
    }
    for name, options in (common | PRINT_CONFIG).items():
        if name not in parser._option_string_actions:
            flag(parser.additions, name, **options)


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved flags under their own names, for records, config.json and --print-config.

    Args:
      config: a frozen dataclass with one attribute a flag; `lambda_` holds --lambda, since Python has that word.
    """
    return {field.name.rstrip("_"): getattr(config, field.name) for field in dataclasses.fields(config)}


def run_flags(config: Any, since: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the resolved flags that a run folder belongs to: later flags only where they change what is computed.

    Args:
      config: as of `as_dict`.
      since: flag that older runs do not know -> value at which a run computes what it did before there was the flag.
    """
    return {name: value for name, value in as_dict(config).items() if name not in since or value != since[name]}


def flags_alone(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the parsed flags as they are, the `resolve` of a script that derives no value from them."""
    return {name: value for name, value in vars(args).items() if name not in ("argv", "print_config")}


def finish_parsing(
    parser: Parser, resolve: Callable[[argparse.Namespace], Resolved], argv: list[str] | None = None
) -> Resolved:
    """Parses, resolves, and answers --print-config; imports no framework.

    Args:
      parser: the script's parser.
      resolve: turns the parsed flags into the resolved configuration, a frozen dataclass or a dict of JSON values;
        may raise UserError.
      argv: arguments without the program name; None for those of this process.
    Returns:
      The resolved configuration.
    """
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        config = resolve(args)
    except (UserError, DatasetError) as error:
        parser.error(str(error))
    _batch[:] = [batch] if (batch := faults.batch_of(config)) else []
    if args.print_config:
        print(json.dumps(config if isinstance(config, dict) else as_dict(config), indent=2, default=str))
        raise SystemExit(0)
    return config


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns an error that the user can correct into one line on stderr and exit code 2; Ctrl-C ends with 130."""
    try:
        yield
    except (UserError, DatasetError) as error:
        print(f"{program}: error: {UserError(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\ninterrupted; {faults.going_on()}", file=sys.stderr)
        raise SystemExit(130) from None


@any_terminal()
def run_main(main: Callable[[], None]) -> None:
    """Runs a script's main with `one_line_errors`; a full disk and a fault of the GPU become one line as well."""
    with one_line_errors(os.path.basename(sys.argv[0])):
        try:
            main()
        except (UserError, DatasetError):
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            place = error.filename or "run folder"
            raise UserError(f"{place}: {os.strerror(error.errno)}; free some space, {faults.going_on()}") from None
        except Exception as error:
            explained = faults.explain(error, _batch[-1] if _batch else None)
            if explained is None:
                raise
            raise UserError(explained) from None
