"""The commands with which a cluster is asked about many jobs at a time, and the reading of large answers beside the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from batchhub.control.batches import batches, by_cluster
from batchhub.control.ports import Meters
from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, JobReport, Listing, Server
from batchhub.core.ports import Command, Completed, Dialect, Transport

log = logging.getLogger(__name__)

T = TypeVar("T")

_LARGE = 64 * 1024
"""Characters. A longer answer is read in a thread: thousands of rows take some tenths of a second, in which nobody else must wait."""


class Questions:
    """To one cluster. ``room`` and ``most``: the most bytes and ids in one command."""

    def __init__(
        self, *, cluster: str, transport: Transport, dialect: Dialect, meters: Meters, room: int, most: int
    ) -> None:
        self.cluster = cluster
        self._transport = transport
        self._dialect = dialect
        self._meters = meters
        self._room = room
        self._most = most

    def batches(self, rows: Iterable[Server]) -> Iterator[Sequence[JobId]]:
        """The rows' jobs, as many at a time as one command may name."""
        for jobs in by_cluster(row.job_id for row in rows if row.job_id is not None):
            yield from batches(jobs, room=self._room, most=self._most)

    async def status(self, jobs: Sequence[JobId]) -> Listing:
        """What the queue says of them. Raises Unreachable."""
        done = await self._transport.run(self._dialect.status(jobs))
        listing = await _read(self._dialect.read_status, done, jobs)
        for row_text in listing.bad_rows:
            log.warning("cluster %s: a status row could not be read: %s", self.cluster, row_text)
        return listing

    async def records(self, questions: Iterable[tuple[Command, Sequence[JobId]]]) -> tuple[dict[JobId, JobReport], str]:
        """The records, and why there may be more."""
        records: dict[JobId, JobReport] = {}
        for command, asked in questions:
            try:
                done = await self._transport.run(command)
                records.update(await _read(self._dialect.read_accounting, done, asked))
            except Unreachable as error:
                log.warning("cluster %s: accounting does not answer: %s", self.cluster, error)
                self._meters.poll_failed(self.cluster)
                return records, str(error)
        return records, ""


async def _read(read: Callable[[Completed, Sequence[JobId]], T], done: Completed, jobs: Sequence[JobId]) -> T:
    return read(done, jobs) if len(done.out) < _LARGE else await asyncio.to_thread(read, done, jobs)


def is_ours(report: JobReport, row: Server) -> bool:
    """Whether a report is about the row's job: ids are used again after a scheduler was set up anew, and a stranger's job is not ours."""
    return not report.user or report.user == row.account
