"""The command line that proxy.py and tunnel.py share, and how they end: with figures, or with a sentence that says why there are none."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bench import environment, report
from bench.machine import Unfit
from bench.measure import FULL, QUICK, Plan

PEERS = ("ours", "chp", "nginx", "haproxy")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    plan: Plan
    sections: list[str]
    peers: list[str]
    say: Callable[[str], None]


def read(words: Sequence[str], about: str, sections: Sequence[str]) -> tuple[Asked, argparse.Namespace]:
    """The command line. Exits with a sentence when it cannot be read."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="two short rounds, fewer idle WebSockets")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/performance.md")
    parser.add_argument("--only", default="", metavar="SECTION,…", help=f"of {', '.join(sections)}")
    parser.add_argument("--peers", default="", metavar="NAME,…", help=f"of {', '.join(PEERS)}")
    plan = parser.add_argument_group("how much, for those who work on it")
    for field in fields(Plan):
        plan.add_argument(f"--{field.name}", type=int, metavar="N", help=f"{getattr(FULL, field.name)} if not said")
    asked = parser.parse_args(words)
    wanted = _chosen(parser, "--only", asked.only, sections)
    peers = _chosen(parser, "--peers", asked.peers, PEERS)
    given = {field.name: getattr(asked, field.name) for field in fields(Plan)}
    base = QUICK if asked.quick else FULL
    changed = replace(base, **{name: value for name, value in given.items() if value is not None})
    return Asked(changed, wanted, peers, lambda line: print(line, file=sys.stderr, flush=True)), asked


def _chosen(parser: argparse.ArgumentParser, option: str, text: str, known: Sequence[str]) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{option}={name}: one of {', '.join(known)} is expected")
    return names or list(known)


def main(about: str, sections: Sequence[str], measure: Callable[[Asked], Mapping[str, Any]]) -> None:
    """A benchmark's program."""
    environment.enter()
    asked, how = read(sys.argv[1:], about.splitlines()[0], sections)
    try:
        found = measure(asked)
    except Unfit as error:
        raise SystemExit(f"No figures, because something failed: {error}") from error
    if how.json:
        print(json.dumps(found, indent=2))
    else:
        print(report.markdown([found]) if how.markdown else report.text(found))
