"""The benchmark of what a scheduler is asked runs, on every dialect, and holds its figure in a small run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import polling

PROGRAM = Path(polling.__file__)


def run(*words: str) -> Any:
    argv = [sys.executable, str(PROGRAM), *words, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_commands_do_not_grow_with_servers() -> None:
    found = run("--quick", "--sizes=1,40,300", "--only=ticks,ends")
    assert found["commands_per_tick"] == {"1": 1, "40": 1, "300": 1}
    assert found["missed"] == []
    assert found["dialects"].keys() == {"slurm", "pbs", "torque", "lsf", "openlava"}
    for name, sizes in found["dialects"].items():
        for count, cost in sizes.items():
            # All commands are that one: nothing else is asked in a tick without news.
            assert cost["all_commands"] == cost["status_commands"] <= polling.AT_MOST, (name, count)
    assert {name: ends["accounting_commands"] for name, ends in found["ends"].items()} == dict.fromkeys(
        ("slurm", "pbs", "lsf", "openlava"), 1
    )


def test_five_thousand_servers_are_two_commands_at_most() -> None:
    found = run("--quick", "--sizes=5000", "--dialects=pbs", "--only=ticks")
    assert 0 < found["commands_per_tick"]["5000"] <= polling.AT_MOST


def test_a_minute_as_the_settings_come() -> None:
    minutes = polling.per_minute()
    assert minutes == {"waited_for": 33.33, "nobody_waits": 3.33, "nothing_changes": 1.11}


@pytest.mark.parametrize(("commands", "missed"), [(2.0, 0), (2.5, 1)])
def test_a_goal_that_is_not_held_is_named(commands: float, missed: int) -> None:
    dialects = {"slurm": {"7": {"status_commands": commands}}}
    found = polling.summed({"commands_per_tick": {}, "dialects": dialects, "ends": {}, "skipped": []}, [7])
    assert len(found["missed"]) == missed
    assert found["commands_per_tick"] == {"7": commands}
    assert found["per_minute"]["7"]["batchspawner_pending"] == 7 * 113


def test_a_dialect_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--dialects=condor"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "'condor' is not one of slurm, pbs" in done.stderr
