"""How jobs that left the queue ended: the records say so, or the scheduler itself, if need be to a question about one job alone.

Nothing less is an end. A job that no record tells of, and about which nobody could be asked, is UNKNOWN.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from batchhub.control.absences import Absences
from batchhub.control.questions import Questions, is_ours
from batchhub.control.sightings import Sightings
from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, Observation, Server, Truth
from batchhub.core.ports import Clock, Command, Dialect

log = logging.getLogger(__name__)


class Endings:
    """Of one cluster. ``patience``: seconds that a job may lack a final record; ``single``: the most jobs a tick that are asked about one by one."""

    def __init__(
        self,
        *,
        questions: Questions,
        dialect: Dialect,
        clock: Clock,
        absences: Absences,
        sightings: Sightings,
        patience: float,
        single: int,
    ) -> None:
        self._questions = questions
        self._dialect = dialect
        self._clock = clock
        self._absences = absences
        self._sightings = sightings
        self._patience = patience
        self._single = single

    async def find(self, rows: Sequence[Server], gone: set[JobId]) -> None:
        """The jobs are not in the queue any more; find out how they ended. Of those in ``gone`` the scheduler itself said so."""
        now = self._clock()
        if not self._absences.due(rows, now):
            self._sightings.note(rows, Observation(Truth.UNKNOWN, now, word="its end is not recorded yet"))
            return
        questions = self._accounting_questions(rows)
        asked = {job for _, jobs in questions for job in jobs}
        records, word = await self._questions.records(questions)
        owners = {row.job_id: row for row in rows}
        records = {job: record for job, record in records.items() if job in owners and is_ours(record, owners[job])}
        without: list[Server] = []
        for row in rows:
            assert row.job_id is not None
            record = records.get(row.job_id)
            if record is not None and record.state.terminal:
                self._ended(row, Observation(Truth.GONE, now, record))
                continue
            if questions and row.job_id not in asked:
                self._sightings.put(row.id, Observation(Truth.UNKNOWN, now, word="its end has still to be asked for"))
                continue
            # The records say that it lives: a queue may have been listed empty, or a record may never have been closed.
            doubtful = record is not None and row.job_id not in gone
            patience = self._patience * (10 if doubtful else 1)
            if not questions or self._absences.waited(row.id, now, patience):
                without.append(row)
                continue
            self._absences.asked(row.id, now)
            self._sightings.put(row.id, Observation(Truth.UNKNOWN, now, word=word or "its end is not recorded yet"))
        await self._prove(without, gone)

    async def _prove(self, rows: Sequence[Server], gone: set[JobId]) -> None:
        """No record will tell how they ended. That one is gone is the scheduler's own word, if need be to a question about it alone."""
        now = self._clock()
        left: list[Server] = []
        for row in rows:
            if row.job_id in gone:
                self._ended(row, Observation(Truth.GONE, now))
            else:
                left.append(row)
        few = self._single
        for number, row in enumerate(left):
            if number >= few or not await self._ask_alone(row):
                for other in left[number:]:
                    self._unproven(other, now, "it has still to be asked for alone")
                return

    async def _ask_alone(self, row: Server) -> bool:
        """Whether there was an answer."""
        assert row.job_id is not None
        now = self._clock()
        try:
            listing = await self._questions.status([row.job_id])
        except Unreachable as error:
            log.warning(
                "cluster %s: job %s is in no list and no record: %s", self._questions.cluster, row.job_id, error
            )
            return False
        report = listing.jobs.get(row.job_id)
        if report is not None and is_ours(report, row):
            self._absences.back(row.id)
            self._sightings.put(row.id, Observation(Truth.SEEN, now, report))
        elif report is None and row.job_id not in listing.gone and listing.bad_rows:
            self._unproven(row, now, "the scheduler's answer about it cannot be read")
        else:
            self._ended(row, Observation(Truth.GONE, now))
        return True

    def _unproven(self, row: Server, now: datetime, word: str) -> None:
        self._absences.asked(row.id, now)
        self._sightings.put(row.id, Observation(Truth.UNKNOWN, now, word=word))

    def _ended(self, row: Server, end: Observation) -> None:
        self._absences.ended(row, end)
        self._sightings.put(row.id, end)

    def _accounting_questions(self, rows: Sequence[Server]) -> list[tuple[Command, Sequence[JobId]]]:
        """One for all, or, where the dialect's records can only be asked so, one for each of a few; none where it has no records."""
        for_all = [(self._dialect.accounting(part), part) for part in self._questions.batches(rows)]
        if any(command is None for command, _ in for_all):
            in_turn = sorted(rows, key=lambda row: self._absences.times_asked(row.id))
            few = [row.job_id for row in in_turn[: self._single] if row.job_id is not None]
            for_all = [(self._dialect.accounting([job]), [job]) for job in few]
        return [(command, asked) for command, asked in for_all if command is not None]
