"""How often a scheduler is asked, for 1 to 5,000 servers: ``python bench/polling.py [--quick] [--json]``.

The hub's poller with its database runs the fake clusters' executables, and counts them; on a real Slurm the controller counts, too (``sdiag``).
What is counted, and what batchspawner does, is in docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package beside us, installed or not

from bench import environment
from bench.machine import Unfit, conditions

SIZES = (1, 100, 1000, 5000)
REAL_SIZES = (1, 50, 200)
AT_MOST = 2
SECTIONS = ("ticks", "ends", "run", "slurm")
BATCHSPAWNER = {"per_minute_running": 2, "per_minute_pending": 113, "rpcs_per_command": 3}
"""For each server: one command every 30 seconds (``poll_interval``), two a second while its job waits, as published for batchspawner 1.3; each
squeue for one job is up to three requests to slurmctld."""


def per_minute() -> dict[str, float]:
    """Ticks a minute as the settings come, with the mean of what chance takes off."""
    from batchhub.control.pace import QUIET, Pace, drawn, pause  # noqa: PLC0415 - needs the environment

    moods = {
        "waited_for": {"watched": True, "unchanged": 0},
        "nobody_waits": {"watched": False, "unchanged": QUIET},
        "nothing_changes": {"watched": False, "unchanged": 10 * QUIET},
    }
    return {
        name: round(60 / drawn(pause(Pace(), moving=False, failures=0, **mood), 0.5), 2)  # type: ignore[arg-type]
        for name, mood in moods.items()
    }


async def measure(asked: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run what is asked for. Raises Unfit when anything failed, for then no figure is worth reporting."""
    from bench import watching  # noqa: PLC0415 - needs the environment

    ticks = 2 if asked.quick else 5
    found: dict[str, Any] = {"commands_per_tick": {}, "dialects": {}, "ends": {}, "skipped": []}
    for name in asked.dialects if {"ticks", "ends", "run"} & set(asked.only) else ():
        with tempfile.TemporaryDirectory(prefix="batchhub-polling-") as directory:
            most = max(asked.sizes)
            with watching.place(Path(directory), name, most) as place:
                if "ticks" in asked.only:
                    say(f"{name}: {', '.join(map(str, asked.sizes))} servers")
                    found["dialects"][name] = await watching.sizes(place, name, asked.sizes, ticks)
                if "run" in asked.only and name == "slurm":
                    seconds, count = (10.0 if asked.quick else 30.0), min(most, 100)
                    say(f"{name}: {count} servers and somebody who waits, for {seconds:.0f} seconds")
                    found["real_minute"] = await watching.for_real(place, name, count, seconds)
                if "ends" in asked.only and place.kind.accounting:
                    count = min(most, 200 if asked.quick else 1000)
                    say(f"{name}: {count} jobs end at once")
                    found["ends"][name] = await watching.ends(place, name, count)
    if "slurm" in asked.only:
        say("a real Slurm, if there may be one")
        try:
            with tempfile.TemporaryDirectory(prefix="batchhub-polling-") as directory:
                counts = [size for size in REAL_SIZES if size <= (50 if asked.quick else 200)]
                found["real_slurm"] = await watching.real_slurm(Path(directory), counts, ticks)
        except Unfit as error:
            found["skipped"].append(f"real Slurm: {error}")
    return summed(found, asked.sizes)


def summed(found: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """The most commands of any dialect, and what is a minute, ours and theirs."""
    for size in map(str, sizes):
        seen = [one[size]["status_commands"] for one in found["dialects"].values()]
        if seen:
            found["commands_per_tick"][size] = max(seen)
    moods = per_minute()
    found["per_minute"] = {
        size: {
            **{mood: round(ticks * commands, 1) for mood, ticks in moods.items()},
            "batchspawner_running": int(size) * BATCHSPAWNER["per_minute_running"],
            "batchspawner_pending": int(size) * BATCHSPAWNER["per_minute_pending"],
        }
        for size, commands in found["commands_per_tick"].items()
    }
    found["batchspawner"] = BATCHSPAWNER
    found["missed"] = [
        f"{size} servers take {commands:g} commands a tick, wanted at most {AT_MOST}"
        for size, commands in found["commands_per_tick"].items()
        if commands > AT_MOST
    ]
    return found | {"conditions": conditions()}


# ---------------------------------------------------------------- for people


def tables(found: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of each table."""
    made = []
    minutes = [
        [
            f"{int(size):,}",
            f"{found['commands_per_tick'][size]:g}",
            *(f"{row[mood]:g}" for mood in ("waited_for", "nobody_waits", "nothing_changes")),
            f"{row['batchspawner_running']:,}",
            f"{row['batchspawner_pending']:,}",
        ]
        for size, row in found["per_minute"].items()
    ]
    head = ["servers", "a tick", "somebody waits", "nobody waits", "nothing changes", "batchspawner, running", "batchspawner, pending"]  # fmt: skip
    made.append(("Status commands a tick and a minute", head, minutes))
    head = [
        "",
        "servers",
        "a tick",
        "commands, s",
        "hub's processor, s",
        "of it in its loop, s",
        "reconciler, s",
        "loop held up, s",
    ]
    keys = ("commands_s", "cpu_s", "loop_cpu_s", "consider_cpu_s", "loop_held_up_s")
    costs = [
        [name, f"{int(size):,}", f"{one['status_commands']:g}", *(f"{one[key]:.3f}" for key in keys)]
        for name, sizes in found["dialects"].items()
        for size, one in sizes.items()
    ]
    made.append(("What a tick without news costs", head, costs))
    head = ["", "jobs that ended at once", "commands to accounting in six ticks"]
    rows = [[name, f"{one['jobs']:,}", f"{one['accounting_commands']:g}"] for name, one in found["ends"].items()]
    made.append(("Ends", head, rows))
    if "real_slurm" in found:
        head = ["jobs", "status commands a tick", "requests to slurmctld a tick", "one squeue for each, requests"]
        each = found["real_slurm"]["one_squeue_for_one_job"]["rpcs"]
        rows = [
            [size, f"{one['status_commands']:g}", f"{one['rpcs_per_tick']:g}", f"{each * int(size):g}"]
            for size, one in found["real_slurm"]["sizes"].items()
        ]
        made.append((f"Real Slurm ({found['real_slurm']['version']}), counted by sdiag", head, rows))
    return [table for table in made if table[2]]


def markdown(found: Mapping[str, Any]) -> str:
    """For docs/performance.md."""
    lines = []
    for title, head, rows in tables(found):
        lines += [f"**{title}**", "", f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    where = found["conditions"]
    lines += [f"* {name}: {where[name]}" for name in ("date", "cpu", "cores", "load before") if name in where]
    return "\n".join([*lines, *(f"* {line}" for line in notes(found))])


def text(found: Mapping[str, Any]) -> str:
    """For the terminal."""
    lines = []
    for title, head, rows in tables(found):
        widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
        lines += [title, *("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]), ""]  # fmt: skip
    return "\n".join([*lines, *notes(found)])


def notes(found: Mapping[str, Any]) -> list[str]:
    """What is to be said beside the tables."""
    real = found.get("real_minute")
    lines = []
    if real:
        lines.append(
            f"by the machine's clock, {real['servers']} servers and somebody who waits: {real['per_minute']:g} status commands a minute "
            f"({real['seconds']:g} seconds)"
        )
    return [
        *lines,
        *(f"skipped: {line}" for line in found["skipped"]),
        *(f"NOT HELD: {line}" for line in found["missed"]),
    ]


def main() -> None:
    """The program."""
    environment.enter()
    from bench.watching import KINDS  # noqa: PLC0415 - needs the environment that was just entered

    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer ticks")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/performance.md")
    parser.add_argument("--sizes", type=_numbers, default=list(SIZES), metavar="N,…", help="how many servers")
    parser.add_argument(
        "--dialects", type=_names(KINDS), default=list(KINDS), metavar="NAME,…", help=f"of {', '.join(KINDS)}"
    )
    parser.add_argument(
        "--only", type=_names(SECTIONS), default=list(SECTIONS), metavar="NAME,…", help=f"of {', '.join(SECTIONS)}"
    )
    asked = parser.parse_args()
    try:
        found = asyncio.run(measure(asked, lambda line: print(line, file=sys.stderr, flush=True)))
    except Unfit as error:
        raise SystemExit(f"No figures, because something failed: {error}") from error
    print(json.dumps(found, indent=2) if asked.json else markdown(found) if asked.markdown else text(found))


def _numbers(words: str) -> list[int]:
    numbers = [int(word) for word in words.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def _names(known: Sequence[str] | Mapping[str, object]) -> Callable[[str], list[str]]:
    def read(words: str) -> list[str]:
        names = words.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    main()
