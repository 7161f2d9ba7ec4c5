"""Ids in as few commands as a command line can hold, whatever the dialect and the way to the login node."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.control.batches import LINE_BYTES, MOST, batches, by_cluster, cost
from batchhub.core.model import JobId
from batchhub.core.ports import Dialect
from batchhub.schedulers.local import Local
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm
from batchhub.transport.shell import line, script

FENCE = "batchhub-0123456789abcdef"
DIALECTS: dict[str, tuple[Dialect, Callable[[int], str]]] = {
    "slurm": (Slurm(bin_dir="/opt/slurm/bin"), lambda n: f"{10_000_000 + n}"),
    "slurm array": (Slurm(), lambda n: f"{10_000_000 + n}_{n}"),
    "slurm federation": (Slurm(cluster="one"), lambda n: f"{10_000_000 + n};a-cluster-of-a-federation"),
    "pbs": (Pbs(), lambda n: f"{1_000_000 + n}.pbs01.cluster.example.org"),
    "pbs array": (Pbs(), lambda n: f"{1_000_000 + n}[{n}].pbs01"),
    "torque": (Torque(server="head"), lambda n: f"{1_000_000 + n}.head"),
    "lsf": (Lsf(bin_dir="/opt/lsf/10.1/linux3.10-glibc2.17-x86_64/bin"), lambda n: f"{1_000_000 + n}"),
    "lsf array": (Lsf(), lambda n: f"{1_000_000 + n}[{n + 1}]"),
    "openlava": (Lsf(flavour="openlava"), lambda n: f"{1_000_000 + n}"),
    "local": (Local(), lambda n: f"abcd-{n}"),
}


def test_each_cluster_of_a_database_is_asked_by_itself() -> None:
    jobs = [JobId(text) for text in ("1", "1;east", "2", "1;west", "3;east")]
    assert by_cluster(jobs) == [["1", "2"], ["1;east", "3;east"], ["1;west"]]
    assert by_cluster([]) == []


@given(st.lists(st.from_regex(r"[0-9_+;.\[\]a-z-]{1,60}", fullmatch=True)), st.integers(1, 500), st.integers(1, 20))
def test_every_id_once_and_in_order_within_the_limits(ids: list[str], room: int, most: int) -> None:
    jobs = [JobId(text) for text in ids]
    parts = list(batches(jobs, room=room, most=most))
    assert [job for part in parts for job in part] == jobs
    assert all(parts)
    assert all(len(part) <= most for part in parts)
    assert all(sum(map(cost, part)) <= room or len(part) == 1 for part in parts)
    # No two neighbours would have gone into one.
    for part, following in pairwise(parts):
        assert len(part) == most or sum(map(cost, part)) + cost(following[0]) > room


@pytest.mark.parametrize("name", DIALECTS)
def test_five_thousand_jobs_are_two_commands_at_most(name: str) -> None:
    """Each fits one line for a login shell at the other end of SSH, which is the narrowest way there is (:func:`line` raises)."""
    dialect, id_of = DIALECTS[name]
    jobs = [JobId(id_of(number)) for number in range(5000)]
    parts = list(batches(jobs))
    assert len(parts) <= 2
    for part in parts:
        for command in (dialect.status(part), dialect.accounting(part)):
            if command is not None:
                assert line(script(command, FENCE, command.deadline))


LONGEST = {
    "slurm": st.from_regex(r"[0-9]{1,18}(?:[_+][0-9]{1,18})?;east", fullmatch=True),
    "pbs": st.from_regex(r"[0-9]{1,18}(?:\[[0-9]{0,9}\])?\.[A-Za-z0-9][A-Za-z0-9._-]{0,254}", fullmatch=True),
    "lsf": st.from_regex(r"[1-9][0-9]{0,11}(?:\[[1-9][0-9]{0,8}\])?", fullmatch=True),
}


@pytest.mark.parametrize("name", LONGEST)
@settings(max_examples=15)
@given(data=st.data())
def test_a_full_command_of_any_ids_fits(name: str, data: st.DataObject) -> None:
    """What an id is reckoned to cost is at least what it takes, however odd the ids."""
    dialect, _ = DIALECTS[name]
    some = data.draw(st.lists(LONGEST[name].filter(lambda text: len(text) > 8), min_size=1, max_size=20, unique=True))
    # A bracket's index is what can be varied without changing what an id costs: the same ids again and again are one to a dialect.
    jobs = [JobId(_another(text, number)) for number in range(6000) for text in some][:6000]
    part = next(iter(batches(jobs)))
    assert sum(map(cost, part)) > LINE_BYTES - 1000 or len(part) == MOST
    command = dialect.status(part)
    assert line(script(command, FENCE, command.deadline))


def _another(text: str, number: int) -> str:
    """The id with another number of eight digits in front of what follows its own."""
    digits = len(text) - len(text.lstrip("0123456789"))
    return f"{10_000_000 + number}{text[digits:]}"
