"""The hands on one cluster's jobs that bear our tag: list them, read what proves whose they are, look again, cancel.

Each method is one question or one effect. What is done about an answer is decided in :mod:`batchhub.control.orphans`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchhub.control.launcher import job_directory
from batchhub.control.ports import JobBuilder
from batchhub.core.errors import BadInput, Unreachable
from batchhub.core.handshake import MAX_BYTES
from batchhub.core.model import JOB_NAME_PREFIX, JobId, JobReport, JobState, ServerId, read_server_id
from batchhub.core.ports import Dialect, Transport
from batchhub.core.proofs import PROOF, Facts


class TaggedJobs:
    """Questions are put as the service's own account, files are read and jobs cancelled as their owner's."""

    def __init__(self, transport: Transport, dialect: Dialect, builder: JobBuilder) -> None:
        self._transport = transport
        self._dialect = dialect
        self._builder = builder

    async def listing(self) -> dict[ServerId, list[JobReport]]:
        """The live jobs whose names could be ours, by the id in the name. Raises Unreachable."""
        done = await self._transport.run(self._dialect.tagged(JOB_NAME_PREFIX))
        found: dict[ServerId, list[JobReport]] = {}
        for job in self._dialect.read_tagged(done, JOB_NAME_PREFIX):
            try:
                server_id = read_server_id(job.name.removeprefix(JOB_NAME_PREFIX))
            except BadInput:
                continue  # somebody's own name that begins so
            found.setdefault(server_id, []).append(job)
        return found

    async def with_users(self, jobs: Sequence[JobReport]) -> list[JobReport]:
        """The same, asked again where the listing does not tell whose they are; what is not told then is left out. Raises Unreachable."""
        unclear = [job.id for job in jobs if not job.user]
        if not unclear:
            return list(jobs)
        try:
            done = await self._transport.run(self._dialect.status(unclear))
        except BadInput as error:
            raise Unreachable(f"The scheduler cannot be asked about jobs that it named: {error}") from error
        seen = self._dialect.read_status(done, unclear).jobs
        whole = [replace(seen[job.id], name=job.name) if job.id in seen else job for job in jobs]
        return [job for job in whole if job.user and not job.state.terminal]

    async def directory(self, account: str, server_id: ServerId) -> str:
        """Where such a run's files are. Raises NotFound, Unreachable."""
        return job_directory(await self._transport.home(account), server_id)

    async def proof(self, directory: str, account: str) -> Facts:
        """What the job's directory proves. Raises FileMissing, BadInput, Denied, Unreachable."""
        return self._builder.prove(await self._transport.get(f"{directory}/{PROOF}", account, limit=MAX_BYTES))

    def unfit(self, facts: Facts) -> str:
        """Why such a run could not go on here; empty if it could."""
        return self._builder.unfit(facts)

    async def named(self, server_id: ServerId, account: str) -> list[JobId]:
        """The jobs of exactly this name and owner, in the scheduler's own words and not by a column of free text.

        Those that have ended are left out, where the answer tells. Raises Unreachable.
        """
        try:
            command = self._dialect.find(JOB_NAME_PREFIX + server_id, account)
        except BadInput as error:
            raise Unreachable(str(error)) from error
        found = self._dialect.read_find(await self._transport.run(command))
        live = [job for job in found if not job.state.terminal]
        if len(live) > 1 and any(job.state is JobState.UNKNOWN for job in live):
            # An answer of ids alone, which may be of jobs that ended long ago.
            ids = [job.id for job in live]
            seen = self._dialect.read_status(await self._transport.run(self._dialect.status(ids)), ids).jobs
            live = [job for job in live if job.id in seen and not seen[job.id].state.terminal]
        return [job.id for job in live]

    async def cancel(self, job: JobId, account: str) -> None:
        """Cancel one. Raises Unreachable, Denied."""
        for command in self._dialect.cancel([job]):
            self._dialect.read_cancel(await self._transport.run(command, command.runs_as(account)))
