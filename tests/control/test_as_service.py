"""Commands that only the service may run are run as the service, for whomever the job is; files stay their owner's."""

from datetime import UTC, datetime

from batchhub.control.launcher import Launcher
from batchhub.control.tagged import TaggedJobs
from batchhub.core.model import JobId, Server, ServerId, UserName
from batchhub.core.ports import Command, Completed
from batchhub.schedulers.container import Docker
from batchhub.schedulers.local import Local
from tests.control.memory import MemoryTransport

NOW = datetime(2026, 11, 28, tzinfo=UTC)
JOB = JobId("a" * 64)


class Asked(MemoryTransport):
    """Notes as whom it is asked."""

    def __init__(self) -> None:
        self.users: list[str | None] = []

    async def run(self, command: Command, user: str | None = None) -> Completed:
        self.users.append(user)
        return Completed(0, f"{JOB}\n" if "sh" in command.argv[0] else '{"id": "abcd-1", "done": "cancelled"}')


async def users_of(dialect: Docker | Local, job: JobId) -> list[str | None]:
    transport = Asked()
    row = Server(
        ServerId("abcdefghijkl"),
        UserName("ann"),
        "",
        "box",
        "lab",
        "ann",
        NOW,
        NOW,
        directory="/home/ann/j",
        job_id=job,
    )
    launcher = Launcher(transport, dialect, None)  # type: ignore[arg-type]
    await launcher.submit(row, "#!/bin/bash\n")
    await launcher.cancel(row)
    await TaggedJobs(transport, dialect, None).cancel(job, "ann")  # type: ignore[arg-type]
    return transport.users


async def test_an_engine_is_spoken_to_by_the_service_alone() -> None:
    assert await users_of(Docker(image="lab:1"), JOB) == [None, None, None]


async def test_a_scheduler_by_the_job_s_owner() -> None:
    assert await users_of(Local(), JobId("abcd-1")) == ["ann", "ann", "ann"]
