"""What `make soak` and `make fuzz` found, kept as JSON under runs/soak/, and docs/reliability.{json,md} made from it.

    python -m reproduction.reliability --write-docs      takes runs/soak/<paper>.json and runs/soak/fuzz.json over

One file for each paper: papers can be soaked one at a time, on several days and machines, by several processes. Each
carries the commit and the date of its beginning. docs/reliability.json holds what the page is made from; newer results
replace what they tried again.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from reproduction.compare.tabular import markdown_table
from reproduction.runtime.flags import Parser, flag, run_main
from reproduction.runtime.record import Machine, commit_and_dirty, first_fault, machine, versions_of
from reproduction.runtime.run_folder import REPO_ROOT, RUNS_ROOT, UserError, shown, write_bytes, write_json

FOLDER = RUNS_ROOT / "soak"
PAGE = REPO_ROOT / "docs" / "reliability.md"
KEPT = REPO_ROOT / "docs" / "reliability.json"
TOP = """# Reliability

Does a run that is killed or disturbed end with the same numbers? Does a damaged or malicious file do harm? `make soak`
and `make fuzz` try both; this page shows what they found.

`python -m reproduction.reliability --write-docs` writes the page from their results, which are in
[reliability.json](reliability.json). When a fault is tried again, on any machine, the newer result replaces the older
one.
"""
SOAK = """## Disturbed runs

`make soak` runs a paper's profile `smoke` (all stages, a few steps on few images) twice, once undisturbed and once
disturbed. It compares every number of the records and curves, except times, bit for bit. The first table counts how
many of the faults a run survived. A run survives if the same command continues it and ends with the same numbers. If a
run cannot continue (the disk is full, for example), it must stop with one clear line, and continue once the cause is
gone.

* Kills come in chains of at most four: each start continues where the previous one was killed.
* If the newest checkpoint is truncated, the run must print that it continues from the previous one.
* Setting the clock needs root, so the files get another date instead.
* `make soak ARGS="--only Ray"` tries only the faults with that word in their name."""
RENAMED = {  # name of a fault in older results -> its name today
    "clock set back by a day": "files dated a day ahead",
    "file where the runs should lie": "a file at the path of runs/",
    "Ray worker killed in mid-cell": "Ray worker killed during a task",
}
FUZZ = """## Hostile input

`make fuzz` gives damaged and malicious files to every reader of files. A reader must return a result or raise the
documented error in one line. Anything else is a fault: a crash, code of the file that is run, a file written elsewhere,
more than 3 GiB of memory or more than 20 seconds. The library hypothesis draws part of the inputs."""


class Origin(pydantic.BaseModel):
    """Where and when something was measured.

    Attributes:
      commit: of the checkout at the beginning.
      dirty: whether it had uncommitted changes.
      date: of the beginning, UTC.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    commit: str
    dirty: bool
    date: str
    machine: Machine
    versions: dict[str, str]


class Soak(pydantic.BaseModel):
    """One paper's disturbed runs.

    Attributes:
      flags: passed to the smoke pipeline's scripts.
      counts: fault -> (times done, times survived).
      kills_after_stages: finished stages -> kills that came when so many were finished.
      faults: what went wrong, in words.
      undisturbed_seconds: of one calm run.
      seconds: of everything.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    paper: str
    flags: str = ""
    seed: int
    counts: dict[str, tuple[int, int]]
    kills_after_stages: dict[str, int] = {}
    faults: list[str]
    undisturbed_seconds: float
    seconds: float
    origin: Origin

    @pydantic.field_validator("counts")
    @classmethod
    def _named_as_now(cls, counts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        return {RENAMED.get(fault, fault): count for fault, count in counts.items()}


class Target(pydantic.BaseModel):
    """One reader and what was put through it, some of it drawn by hypothesis; `faults`: {input, what, hex} of each."""

    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    inputs: int
    hypothesis: int = 0
    seconds: float
    faults: list[dict[str, Any]]


class Fuzz(pydantic.BaseModel):
    """One run of the fuzzing; `inputs`, those of them that hypothesis drew, and `faults` in all."""

    model_config = pydantic.ConfigDict(extra="forbid")
    seed: int
    inputs: int
    hypothesis: int = 0
    faults: int
    seconds: float
    targets: list[Target]
    origin: Origin


class Results(pydantic.BaseModel):
    """docs/reliability.json."""

    model_config = pydantic.ConfigDict(extra="forbid")
    soaks: list[Soak] = []
    fuzz: Fuzz | None = None


Model = TypeVar("Model", Soak, Fuzz, Results)


def origin() -> Origin:
    """This moment, this checkout, this machine."""
    commit, dirty = commit_and_dirty()
    versions = versions_of("tensorflow", "torch", "lightning", "numpy", "scipy")
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Origin(commit=commit, dirty=dirty, date=date, machine=machine(), versions=versions)


def kept_at(paper: str, only: str = "") -> Path:
    """Returns the result file of `paper`; a result of only some faults has another file in the same folder."""
    part = re.sub(r"\W+", "-", only).strip("-")
    return FOLDER / f"{paper}{part and '-'}{part}.json"


def keep(path: Path, result: Soak | Fuzz) -> None:
    """Writes a result, atomically, in place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result.model_dump(mode="json"))


def read(path: Path, model: type[Model]) -> Model | None:
    """Reads a stored result; returns None if there is none.

    Raises:
      UserError: the file is none of these results, in one line.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror or error}") from None
    except pydantic.ValidationError as error:
        raise UserError(f"{shown(path)}: not a {model.__name__.lower()} result: {first_fault(error)}") from None


def when(result: Soak | Fuzz) -> tuple[str, str]:
    """Commit and date, as shown."""
    return result.origin.commit[:10] + (" with changes" if result.origin.dirty else ""), result.origin.date


def newest_of(soaks: Sequence[Soak]) -> dict[str, dict[str, Soak]]:
    """Paper -> fault -> the result its counts are taken from."""
    newest: dict[str, dict[str, Soak]] = {}
    for soak in sorted(soaks, key=lambda soak: soak.origin.date):
        newest.setdefault(soak.paper, {}).update(dict.fromkeys(soak.counts, soak))
    return newest


def soak_part(soaks: Sequence[Soak], papers: Sequence[str]) -> str:
    """Faults times papers, and what was measured on what."""
    newest, rows = newest_of(soaks), []
    for kind in dict.fromkeys(kind for soak in soaks for kind in soak.counts):
        sources = [newest.get(paper, {}).get(kind) for paper in papers]
        found = [source.counts[kind] if source else None for source in sources]
        done, survived = (sum(pair[i] for pair in found if pair) for i in (0, 1))
        rows.append([kind, *(f"{pair[1]} of {pair[0]}" if pair else "-" for pair in found), f"{survived} of {done}"])
    runs = []
    for soak in soaks:
        moments = ", ".join(
            f"{n} after {k}" for k, n in sorted(soak.kills_after_stages.items(), key=lambda x: int(x[0]))
        )
        runs.append(
            [
                soak.paper,
                f"`{soak.flags}`" if soak.flags else "-",
                len(soak.counts),
                moments or "-",
                f"{soak.undisturbed_seconds:.0f}",
                f"{soak.seconds / 60:.0f}",
                soak.seed,
                *when(soak),
            ]
        )
    heads = ["paper", "added flags", "faults", "kills after k finished stages", "undisturbed, s", "all, min"]
    heads += ["seed", "commit", "date"]
    parts = [SOAK, markdown_table(["survived", *papers, "all"], rows), markdown_table(heads, runs)]
    if missing := [paper for paper in papers if paper not in newest]:
        parts.append(f"Not run: {', '.join(missing)}.")
    if faults := [
        f"* {soak.paper}: {fault}"
        for soak in soaks
        for fault in soak.faults
        if newest[soak.paper].get(fault.partition(":")[0], soak) is soak
    ]:
        parts.append("What went wrong:\n\n" + "\n".join(faults))
    return "\n\n".join(parts)


def fuzz_part(fuzz: Fuzz) -> str:
    """What was tried and what went wrong; the file of results has the counts of every reader."""
    commit, date = when(fuzz)
    line = (
        f"{fuzz.inputs:,} inputs, {fuzz.hypothesis:,} of them drawn by hypothesis, {len(fuzz.targets)} readers, "
        f"{fuzz.faults} faults; {fuzz.seconds / 60:.0f} minutes, seed {fuzz.seed}, commit {commit}, {date}."
    )
    counts = [t.inputs for t in fuzz.targets]
    each = (
        f"A reader had {min(counts):,} to {max(counts):,} inputs, slow ones the fewest; "
        "[reliability.json](reliability.json) has the counts of each."
    )
    parts = [FUZZ, line, each]
    if faults := [
        f"* {t.name}, input {fault.get('input')}: {fault.get('what')}" for t in fuzz.targets for fault in t.faults
    ]:
        parts.append("What went wrong:\n\n" + "\n".join(faults))
    return "\n\n".join(parts)


def results(folder: Path, papers: Sequence[str]) -> Results:
    """What the committed file and a folder hold, without what was tried again since.

    Raises:
      UserError: there is none, or one is damaged.
    """
    before = read(KEPT, Results) or Results()
    files = (path for paper in papers for path in [folder / f"{paper}.json", *sorted(folder.glob(f"{paper}-*.json"))])
    found = [*before.soaks, *(soak for path in files for soak in [read(path, Soak)] if soak)]
    used = [soak for faults in newest_of(found).values() for soak in faults.values()]
    soaks = [soak for at, soak in enumerate(found) if soak in used and soak not in found[:at]]
    soaks.sort(key=lambda soak: (papers.index(soak.paper), soak.origin.date))
    fuzzes = [fuzz for fuzz in (before.fuzz, read(folder / "fuzz.json", Fuzz)) if fuzz]
    if not soaks and not fuzzes:
        raise UserError(f"{shown(folder)}: no results; make soak and make fuzz write them")
    return Results(soaks=soaks, fuzz=max(fuzzes, key=lambda fuzz: fuzz.origin.date, default=None))


def page(found: Results, papers: Sequence[str]) -> str:
    """docs/reliability.md."""
    soaks, fuzz, parts = found.soaks, found.fuzz, [TOP]
    if soaks:
        parts.append(soak_part(soaks, papers))
    parts.append(fuzz_part(fuzz) if fuzz else "## Hostile input\n\nNot run.")
    everything: list[Soak | Fuzz] = [*soaks, *([fuzz] if fuzz else [])]
    here = {
        f"{r.origin.machine.cpu}, {r.origin.machine.cores} cores, {r.origin.machine.system}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(r.origin.versions.items()))
        for r in everything
    }
    parts.append("Machine: " + "; ".join(sorted(here)) + ".")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    p = Parser(
        "python -m reproduction.reliability", "docs/reliability.{json,md} with what make soak and make fuzz found."
    )
    flag(p.additions, "--results", type=Path, default=FOLDER, help="folder of <paper>.json and fuzz.json")
    flag(p.additions, "--write-docs", action="store_true", help="write both files; without it, print the page")
    run_main(lambda: _main(p.parse_args(argv)))


def _main(args: Any) -> None:
    from reproduction.launch.sweep import FOLDERS

    found = results(args.results, list(FOLDERS))
    text = page(found, list(FOLDERS))
    if args.write_docs:
        try:
            write_json(KEPT, found.model_dump(mode="json"))
            write_bytes(PAGE, text.encode())
        except OSError as error:
            raise UserError(f"{shown(PAGE)}: {error.strerror or error}") from None
        print(f"wrote {shown(KEPT)} and {shown(PAGE)}")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
