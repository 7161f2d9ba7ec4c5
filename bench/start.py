"""How long a start takes on a real Slurm cluster, ours beside the same JupyterLab by a bare sbatch.

    python bench/start.py [--quick] [--json] [--rounds=N]

The cluster is the tests' own (root, Debian's Slurm): the hub reaches its login node by SSH and nothing else. In turn, A B A B, a person starts JupyterLab by
the form, with a browser on the waiting page, and the same person gives the same JupyterLab to sbatch. Two figures:

start_vs_bare          from the job script's first line to the first 200 of ``/api/status``, by our proxy and, bare, at the node's port; a ratio of medians
listening_to_browser_s from the moment JupyterLab says that it listens to the moment the browser sets out for it; a median
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import environment
from bench.machine import Unfit, conditions

if TYPE_CHECKING:
    from bench.starts import Start

GOALS = {"start_vs_bare": 1.2, "listening_to_browser_s": 0.5}
THEIRS = {"start_vs_bare": 2.2, "listening_to_browser_s": 1.2}
"""JupyterHub 6.1.1 with batchspawner 1.3.0 on a cluster made in the same way, medians of ten starts on another day."""


def result(found: Mapping[str, Sequence[Start]]) -> dict[str, Any]:
    """Medians and spreads, and what is asked of them."""
    ours, bare = found["ours"], found["bare"]

    def summed(values: list[float]) -> dict[str, float]:
        return {name: round(f(values), 3) for name, f in (("median", statistics.median), ("min", min), ("max", max))}

    figures = {
        "ours": {"listens": summed([one.listens for one in ours]), "usable": summed([one.usable for one in ours])},
        "bare": {"listens": summed([one.listens for one in bare]), "usable": summed([one.usable for one in bare])},
        "listening_to_browser": summed([one.browser for one in ours]),
    }
    return {
        "start_vs_bare": round(figures["ours"]["usable"]["median"] / figures["bare"]["usable"]["median"], 3),
        "listening_to_browser_s": figures["listening_to_browser"]["median"],
        "rounds": len(ours),
        "goals": GOALS,
        "theirs": THEIRS,
        "figures": figures,
        "conditions": conditions(),
    }


def text(found: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for key, goal in GOALS.items():
        held = "held" if found[key] <= goal else "NOT held"
        lines.append(
            f"{key:24} {found[key]:6.3f}   wanted <= {goal:g}: {held}; JupyterHub with batchspawner: {THEIRS[key]:g}"
        )
    for name in ("ours", "bare"):
        for what, seen in found["figures"][name].items():
            lines.append(
                f"{name:5} script to {what:8} median {seen['median']:.2f} s ({seen['min']:.2f} to {seen['max']:.2f})"
            )
    return "\n".join(lines)


def main() -> None:
    """The program."""
    environment.enter()
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--rounds", type=int, metavar="N", help="starts of each kind that count; 10 if not said")
    asked = parser.parse_args()
    from bench.starts import measure  # noqa: PLC0415 - needs the environment that was just entered

    try:
        found = result(
            measure(asked.rounds or (2 if asked.quick else 10), lambda line: print(line, file=sys.stderr, flush=True))
        )
    except Unfit as error:
        raise SystemExit(f"No figures, because something failed: {error}") from error
    print(json.dumps(found, indent=2) if asked.json else text(found))


if __name__ == "__main__":
    main()
