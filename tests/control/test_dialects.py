"""Dialects whose answers need care of the poller: lists without what has ended, submits that need their script, a spool that is another's."""

import json
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.unanswered import Unanswered
from batchhub.core.model import JobId, JobState, Phase, Server, ServerId, Truth, UserName
from batchhub.core.ports import Command, Completed, Dialect
from batchhub.schedulers.container import Docker, Podman
from batchhub.schedulers.kubernetes import Kubernetes
from batchhub.schedulers.local import Local
from tests.control.memory import T0, Clock, MemoryTransport

AT = "2026-11-23T07:00:00Z"


class Api(MemoryTransport):
    """Answers as ``kubectl get --raw`` does: a selector by phase or by name."""

    def __init__(self) -> None:
        self.phases: dict[str, str] = {}
        self.asked: list[str] = []

    async def run(self, command: Command, user: str | None = None) -> Completed:
        selector = unquote(command.argv[-1]).partition("fieldSelector=")[2]
        self.asked.append(selector)
        name = selector.removeprefix("metadata.name=")
        over = {"Succeeded", "Failed"}
        items = [
            {
                "metadata": {"name": pod, "annotations": {"batchhub/account": "ann"}},
                "spec": {"nodeName": "n1"},
                "status": {"phase": phase, "podIP": "10.0.0.1", "startTime": AT},
            }
            for pod, phase in self.phases.items()
            if pod == name or (name == selector and phase not in over)
        ]
        found = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        return Completed(0, json.dumps(found))


def rows_of(letters: str) -> list[Server]:
    return [
        replace(
            Server(ServerId(f"abcdefghijk{letter}"), UserName("ann"), letter, "pods", "lab", "ann", T0, T0),
            job_id=JobId(f"bh-abcdefghijk{letter}"),
            submit_tried=T0,
            phase=Phase.READY,
        )
        for letter in letters
    ]


def poller_of(rows: list[Server], dialect: Dialect, transport: MemoryTransport, clock: Clock) -> Poller:
    async def live(_cluster: str) -> list[Server]:
        return rows

    return Poller(
        cluster="pods",
        transport=transport,
        dialect=dialect,
        store=SimpleNamespace(live_servers=live),
        clock=clock,
        settings=PollerSettings(),
        observed=lambda _rows: None,
    )


async def test_how_pods_ended_is_asked_of_them_alone() -> None:
    rows = rows_of("abc")
    runs, ends, removed = (str(row.job_id) for row in rows)
    api, clock = Api(), Clock()
    api.phases = dict.fromkeys((runs, ends, removed), "Running")
    poller = poller_of(rows, Kubernetes(), api, clock)

    async def look() -> list[tuple[Truth, JobState | None]]:
        clock.move(20)
        await poller.tick()
        seen = [poller.newest(row.id) for row in rows]
        return [(one.truth, one.report.state if one.report else None) for one in seen if one]

    assert {truth for truth, _ in await look()} == {Truth.SEEN}
    api.phases[ends] = "Succeeded"
    del api.phases[removed]
    assert [truth for truth, _ in await look()] == [Truth.SEEN, Truth.UNKNOWN, Truth.UNKNOWN]
    assert not [selector for selector in api.asked if "metadata" in selector]
    assert await look() == [
        (Truth.SEEN, JobState.RUNNING),
        (Truth.SEEN, JobState.COMPLETED),
        (Truth.GONE, None),
    ]
    assert api.asked.count(f"metadata.name={ends}") == api.asked.count(f"metadata.name={removed}") == 1


@pytest.mark.parametrize(
    "dialect", [Kubernetes(), Docker(), Podman(image="lab:1")], ids=["kubernetes", "docker", "podman"]
)
async def test_a_hub_that_died_during_a_submit_is_no_end_of_looking(dialect: Dialect) -> None:
    """How long that submit may still run is asked of the dialect, which has no script to make it from."""
    clock = Clock()
    unanswered = Unanswered(clock=clock, find_after=12, absent_after=180, finds=20, submit=dialect.submit)
    row = replace(rows_of("a")[0], job_id=None, phase=Phase.REQUESTED, submit_tried=T0 - timedelta(minutes=1))
    assert not unanswered.may_be_absent(row, T0 + timedelta(seconds=150))
    assert unanswered.may_be_absent(row, T0 + timedelta(minutes=10))


async def test_a_spool_that_is_not_mounted_ends_nobody_s_server() -> None:
    """Its ids are another spool's then, which is no word about any job, however often it is said and whoever is asked for alone."""

    class Queue(MemoryTransport):
        def __init__(self) -> None:
            self.state = "foreign"

        async def run(self, command: Command, user: str | None = None) -> Completed:
            return Completed(0, json.dumps({"id": command.argv[-1], "state": self.state}))

    (row,) = rows = [replace(row, job_id=JobId("qzxk-1")) for row in rows_of("a")]
    queue, clock = Queue(), Clock()
    poller = poller_of(rows, Local(), queue, clock)
    for _ in range(5):
        clock.move(600)
        await poller.tick()
        seen = poller.newest(row.id)
        assert seen is not None
        assert seen.truth is Truth.UNKNOWN
    queue.state = "unknown"
    await poller.tick()
    seen = poller.newest(row.id)
    assert seen is not None
    assert seen.truth is Truth.GONE
