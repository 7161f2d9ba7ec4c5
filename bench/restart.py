"""A hub that is killed while a thousand servers run, and started again: ``python bench/restart.py [--quick] [--json]``.

The cluster is simulated (its commands are real programs, its jobs are rows), hub and proxy are real processes, and behind every server's route
is one small application that echoes WebSockets. What is counted, from the hub's process start:

first_answer_s   until its sign-in page is answered through the proxy
verified_ticks   status commands until the scheduler's word on every server is known again
cut              WebSockets of the servers' owners that no longer echo
submits, cancels what the scheduler was told to do meanwhile: nothing
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import environment
from bench.machine import Unfit, conditions

GOALS = {"first_answer_s": 2.0, "verified_ticks": 2, "cut": 0, "submits": 0, "cancels": 0}


def text(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{found['servers']} servers, {found['websockets']} open WebSockets"]
    for key, goal in GOALS.items():
        lines.append(f"{key:16} {found[key]:8}   wanted <= {goal:g}: {'held' if found[key] <= goal else 'NOT held'}")
    lines.append(f"hub {found['hub_mib']} MiB, proxy {found['proxy_mib']} MiB resident, afterwards")
    return "\n".join(lines)


def main() -> None:
    """The program."""
    environment.enter()
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 servers")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--servers", type=int, metavar="N", help="1000 if not said; at most 5000")
    asked = parser.parse_args()
    servers = asked.servers or (100 if asked.quick else 1000)
    if not 1 <= servers <= 5000:
        parser.error(f"--servers={servers}: from 1 to 5000 is expected")
    from bench.restarting import measure  # noqa: PLC0415 - needs the environment that was just entered

    try:
        found = {
            **measure(servers, lambda line: print(line, file=sys.stderr, flush=True)),
            "goals": GOALS,
            "conditions": conditions(),
        }
    except Unfit as error:
        raise SystemExit(f"No figures, because something failed: {error}") from error
    print(json.dumps(found, indent=2) if asked.json else text(found))


if __name__ == "__main__":
    main()
