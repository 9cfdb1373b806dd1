"""What the check ends with: one line a paper, and a block of text to paste into a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reproduction.launch.measured import hours_text
from reproduction.runtime.run_folder import UserError

PAPERS = ("class2str", "subclass", "finegrained", "triplet", "hierarchy")
PAPERS_OF = {"torch": ("subclass", "finegrained", "hierarchy"), "tensorflow": ("class2str", "triplet")}
Entry = dict[str, Any]


def of_kind(entries: Sequence[Entry], kind: str, **wanted: Any) -> list[Entry]:
    """The entries of a kind whose values are the wanted ones."""
    return [e for e in entries if e["kind"] == kind and all(e.get(key) == value for key, value in wanted.items())]


def verdict_of(paper: str, entries: Sequence[Entry]) -> tuple[bool, str]:
    """Whether a paper is ready to run on the device, and the line that says so."""
    failures = of_kind(entries, "failure", paper=paper)
    agreements = of_kind(entries, "agreement", paper=paper)
    speeds = of_kind(entries, "speed", paper=paper)
    if not failures and not agreements and not speeds:
        return True, f"{paper}: not checked: its framework is not installed"
    wrong = [f"{e['network']} in {e['precision']} differs from the CPU" for e in agreements if not e["close"]]
    wrong += [f"{e['what']}: {e['message']}" for e in failures]
    if wrong or not agreements or not speeds:
        return False, f"{paper}: NOT READY: {'; '.join(wrong) or 'nothing was measured'}"
    fastest = max(speeds, key=lambda entry: entry["images_per_s"])
    precisions = ", ".join(dict.fromkeys(e["precision"] for e in agreements))
    hours = of_kind(entries, "table", paper=paper)
    table = f", {hours[0]['name']} {hours_text(hours[0]['hours'])} h" if hours else ""
    return True, (
        f"{paper}: ready: right in {precisions}; fastest {fastest['network']} {fastest['precision']} "
        f"{fastest['images_per_s']:,.0f} images/s{table}"
    )


def block(title: str, entries: Sequence[Entry], verdicts: Sequence[str]) -> str:
    """The text to paste: machine, agreement, speed, hours, verdicts. It holds no host, user or path."""
    lines = [title]
    lines += [entry["text"] for entry in of_kind(entries, "seen")]
    lines += [f"{e['paper']} {e['network']}, {e['text']}" for e in of_kind(entries, "agreement")]
    for e in of_kind(entries, "speed"):
        waits = "not measured" if e["waits"] is None else f"{100 * e['waits']:.0f} %"
        lines.append(
            f"{e['paper']} {e['network']} {e['precision']}: {e['images_per_s']:,.0f} images/s, waits {waits}, "
            f"peak {e['peak_mib']:,.0f} MiB"
        )
    lines += [f"resume, {entry['framework']}: {entry['text']}" for entry in of_kind(entries, "resumed")]
    lines += [f"{e['paper']} {e['name']}: {hours_text(e['hours'])} h" for e in of_kind(entries, "table")]
    return "\n".join(["```", *(str(UserError(line)) for line in [*lines, *verdicts]), "```"])
