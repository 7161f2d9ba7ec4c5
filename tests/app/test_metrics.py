"""The hub's figures, as Prometheus reads them, from a whole control plane over a cluster in memory."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from batchhub.app.metrics import HubMetrics, MeteredTransport, program_of, unknown_age
from batchhub.core.errors import Unreachable
from batchhub.core.model import JobState, Outcome, Phase
from batchhub.core.ports import Command, Completed
from tests.control.memory import Clock, MemoryCluster, MemoryRoutes, MemoryTransport
from tests.control.test_reconciler import ALICE, World


@pytest.fixture
async def world(tmp_path: Path):
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes())
    await made.open()
    yield made
    await made.close()


def measured(world: World) -> HubMetrics:
    metrics = HubMetrics(["lab"], ["hpc"])
    world.poller._meters = world.poller._questions._meters = metrics
    world.reconciler._meters = metrics
    metrics.watch(world.poller, world.clock)
    return metrics


def value(metrics: HubMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_a_servers_life_in_figures(world: World) -> None:
    metrics = measured(world)
    await world.spawn()
    await world.tick(30)
    assert value(metrics, "batchhub_servers", cluster="hpc", phase="requested") == 1
    world.cluster.run()
    world.clock.move(10)
    row = await world.tick(0)
    world.clock.move(4)
    world.cluster.listen(row)
    world.reconciler.look([row.id])
    await world.settle()
    of = {"cluster": "hpc", "profile": "lab"}
    assert (await world.row()).phase is Phase.READY
    assert value(metrics, "batchhub_queue_wait_seconds_sum", **of) == 30
    assert value(metrics, "batchhub_start_up_seconds_sum", **of) == 14
    world.cluster.end(JobState.TIMEOUT)
    await world.tick()
    await world.tick()
    await world.tick()
    assert value(metrics, "batchhub_ended_total", outcome="timed out", **of) == 1
    assert value(metrics, "batchhub_servers", cluster="hpc", phase="ready") == 0
    text = generate_latest(metrics.registry).decode()
    assert ALICE not in text
    assert row.id not in text
    assert "process_open_fds" in text


async def test_a_cluster_that_does_not_answer(world: World) -> None:
    metrics = measured(world)
    await world.ready()
    assert value(metrics, "batchhub_unknown_seconds", cluster="hpc") == 0
    failures = value(metrics, "batchhub_poll_failures_total", cluster="hpc")
    assert failures == 0
    world.cluster.down = True
    await world.tick(20)
    world.clock.move(100)
    assert value(metrics, "batchhub_poll_failures_total", cluster="hpc") == 1
    assert value(metrics, "batchhub_unknown_seconds", cluster="hpc") == 120
    world.cluster.down = False
    await world.tick(1)
    assert value(metrics, "batchhub_unknown_seconds", cluster="hpc") == 0


async def test_accounting_that_does_not_answer_is_a_failure_too(world: World) -> None:
    metrics = measured(world)
    await world.ready()
    world.cluster.end()
    world.cluster.accounting_down = True
    await world.tick()
    await world.tick()
    assert value(metrics, "batchhub_poll_failures_total", cluster="hpc") == 1


async def test_every_tick_is_timed_whatever_becomes_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = measured(world)
    rest = iter([ZeroDivisionError, Unreachable("The store is away.")])

    async def tick() -> None:
        raise next(rest)

    async def pause(_begun: float) -> None:
        if value(metrics, "batchhub_poll_seconds_count", cluster="hpc") == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(world.poller, "tick", tick)
    monkeypatch.setattr(world.poller, "_rest", pause)
    with pytest.raises(asyncio.CancelledError):
        await world.poller.run()
    assert value(metrics, "batchhub_poll_failures_total", cluster="hpc") == 2


def test_who_never_answered_is_silent_from_the_first_question_on() -> None:
    class Eyes:
        cluster = "hpc"
        silent_since = Clock().now
        answered_at = None

    now = Eyes.silent_since + timedelta(seconds=7)
    assert unknown_age(Eyes(), now) == 7
    assert unknown_age(Eyes(), now - timedelta(hours=1)) == 0


def test_labels_are_bounded() -> None:
    metrics = HubMetrics(["lab"], ["hpc"])
    for number in range(1000):
        metrics.ended("hpc", f"old{number}", Outcome.STOPPED)
        metrics.ran("hpc", (f"/opt/tool{number}",), "ok")
    text = generate_latest(metrics.registry).decode().splitlines()
    assert value(metrics, "batchhub_ended_total", cluster="hpc", profile="other", outcome="stopped") == 1000
    assert sum(line.startswith("batchhub_commands_total{") for line in text) == 33


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (("/opt/slurm/bin/squeue", "-h"), "squeue"),
        (("python3", "-m", "batchhub.localqueue", "status"), "batchhub.localqueue"),
        ((), "other"),
    ],
)
def test_a_commands_program(argv: tuple[str, ...], program: str) -> None:
    assert program_of(argv) == program


async def test_commands_are_counted_by_what_came_of_them() -> None:
    class Answers(MemoryTransport):
        async def run(self, command: Command, user: str | None = None) -> Completed:
            if command.stdin == "gone":
                raise Unreachable("The login node does not answer.")
            return Completed(int(command.stdin) if command.stdin else None)

    metrics = HubMetrics([], ["hpc"])
    transport = MeteredTransport("hpc", Answers(MemoryCluster(Clock())), metrics)
    for stdin in ("0", "0", "1", ""):
        await transport.run(Command(("/bin/squeue",), stdin=stdin))
    with pytest.raises(Unreachable):
        await transport.run(Command(("/bin/squeue",), stdin="gone"))
    counts = {
        result: value(metrics, "batchhub_commands_total", cluster="hpc", program="squeue", result=result)
        for result in ("ok", "failed", "killed", "unreachable")
    }
    assert counts == {"ok": 2, "failed": 1, "killed": 1, "unreachable": 1}
    await transport.put("/x", b"1", "ann")
    assert await transport.get("/x", "ann") == await transport.tail("/x", "ann") == b"1"
    assert await transport.home("ann") == "/home/ann"
    await transport.make_directory("/x", "ann")
    await transport.close()
