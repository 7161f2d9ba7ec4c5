"""The hands on one cluster: submit, cancel, read what the job left. Each method is one effect and may be repeated."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from batchhub.control.ports import Customiser, JobBuilder
from batchhub.core.customising import FILES, NOT_CUSTOMISED, Customisation
from batchhub.core.errors import BadInput, FileMissing, HubError
from batchhub.core.handshake import MAX_BYTES, SECRETS, Connection, ExitRecord, read_connection, read_exit
from batchhub.core.model import JobId, Server, ServerId
from batchhub.core.ports import Dialect, JobRequest, Transport
from batchhub.core.proofs import PROOF, Facts

log = logging.getLogger(__name__)

JOBS_DIRECTORY = ".batchhub/jobs"
LOG_TAIL_BYTES = 6000
LOG_TAIL_LINES = 40


@dataclass(frozen=True, slots=True)
class Remains:
    """What a job left in its directory."""

    exit: ExitRecord | None
    log_tail: str
    whole: bool = True
    """Whether all of it could be read, or is known not to be there."""


async def not_customised(_server: Server, _home: str) -> Customisation:
    """Nothing is added to anybody's jobs."""
    return NOT_CUSTOMISED


class Launcher:
    """Works as the server's own account throughout, but for commands that only the service may run.

    ``customise`` says what a site adds to a job.
    """

    def __init__(
        self, transport: Transport, dialect: Dialect, builder: JobBuilder, customise: Customiser = not_customised
    ) -> None:
        self._transport = transport
        self._dialect = dialect
        self._builder = builder
        self._customise = customise

    async def prepare(self, row: Server) -> tuple[str, str]:
        """Write the job directory; returns its path and the script. Raises Unreachable, NotFound, BadInput, TemplateProblem.

        All of it is made before any of it is written.
        """
        home = await self._transport.home(row.account)
        directory = job_directory(home, row.id)
        added = await self._customise(row, home)
        files = self._builder.build(row, home, added)
        await self._transport.make_directory(directory, row.account)
        await self._clear_files(directory, row, added, fresh=not row.submit_count)
        for name, data in files.files.items():
            await self._transport.put(f"{directory}/{name}", data, row.account)
        return directory, files.script

    async def submit(self, row: Server, script: str) -> JobId:
        """Submit. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound, Unreachable (also ambiguous)."""
        request = JobRequest(name=row.job_name, directory=row.directory, script=script, user=row.account)
        command = self._dialect.submit(request)
        done = await self._transport.run(command, command.runs_as(row.account))
        return self._dialect.read_submit(done)

    async def place(self, row: Server) -> str:
        """Where the job directory is. Raises Unreachable, NotFound."""
        return job_directory(await self._transport.home(row.account), row.id)

    async def named(self, row: Server) -> JobId | None:
        """The newest job of the row's name and owner that the scheduler knows of. Raises Unreachable."""
        done = await self._transport.run(self._dialect.find(row.job_name, row.account))
        found = self._dialect.read_find(done)
        return found[0].id if found else None

    async def cancel(self, row: Server) -> None:
        """Cancel its job. Raises Unreachable, Denied."""
        if row.job_id is None:
            return
        for command in self._dialect.cancel([row.job_id]):
            self._dialect.read_cancel(await self._transport.run(command, command.runs_as(row.account)))

    async def renew(self, row: Server) -> None:
        """Write the secrets of the row's generation, and what is added to the job, for its next start. Raises as :meth:`prepare`.

        The proof goes first: it must name no older generation than the secrets that a start may read.
        """
        added = await self._customise(row, row.directory.removesuffix(f"/{JOBS_DIRECTORY}/{row.id}") or "/")
        secrets = self._builder.secrets(row, added)
        await self._transport.put(f"{row.directory}/{PROOF}", self._builder.proof(row), row.account)
        await self._clear_files(row.directory, row, added)
        for name, data in added.files.items():
            await self._transport.put(f"{row.directory}/{FILES}/{name}", data, row.account)
        await self._transport.put(f"{row.directory}/{SECRETS}", secrets, row.account)

    async def _clear_files(self, directory: str, row: Server, added: Customisation, *, fresh: bool = False) -> None:
        """An empty directory for the files that are added, or none: what an earlier start was given may be nobody's to have now."""
        if added.files or not fresh:
            await self._transport.discard(directory, (FILES,), row.account)
        if added.files:
            await self._transport.make_directory(f"{directory}/{FILES}", row.account)

    async def forget(self, row: Server) -> None:
        """Remove what an ended job was given in confidence; the rest stays as evidence. Raises Unreachable, Denied."""
        await self._transport.discard(row.directory, (FILES, SECRETS), row.account)

    async def proof(self, row: Server) -> Facts:
        """What its directory proves of the run. Raises FileMissing, BadInput, Denied, Unreachable."""
        return self._builder.prove(await self._transport.get(f"{row.directory}/{PROOF}", row.account, limit=MAX_BYTES))

    async def connection(self, row: Server) -> Connection:
        """What the job says about where it listens. Raises FileMissing (not yet), BadInput, Unreachable."""
        return read_connection(await self._transport.get(f"{row.directory}/connection.json", row.account, limit=8192))

    async def remains(self, row: Server) -> Remains:
        """The exit record and the log's end, as far as they can be had. Raises Unreachable."""
        record: ExitRecord | None = None
        tail, whole = "", True
        if not row.directory:
            return Remains(None, "")
        try:
            record = read_exit(await self._transport.get(f"{row.directory}/exit.json", row.account, limit=8192))
        except FileMissing:
            pass
        except BadInput as error:
            log.warning("server %s: its exit record cannot be read: %s", row.id, error)
        try:
            data = await self._transport.tail(f"{row.directory}/job.log", row.account, LOG_TAIL_BYTES)
            tail = readable_tail(data)
        except FileMissing:
            pass
        except HubError as error:
            log.warning("server %s: its log cannot be read: %s", row.id, error)
            whole = False
        return Remains(record, tail, whole)


def job_directory(home: str, server_id: ServerId) -> str:
    """Where a run's files are."""
    return f"{home.rstrip('/')}/{JOBS_DIRECTORY}/{server_id}"


def readable_tail(data: bytes) -> str:
    """A log's last lines for a page: no control characters but line breaks, no first line cut in two."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    if len(data) >= LOG_TAIL_BYTES:
        text = text.partition("\n")[2]
    kept = "".join(
        letter if letter in "\n\t" or letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return "\n".join(kept.rstrip().split("\n")[-LOG_TAIL_LINES:])
