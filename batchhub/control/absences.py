"""What is remembered of jobs that good answers no longer hold: since when, and what the records said. Pure; time is handed in.

The records are asked about all such jobs at once, once for each job if they know its end. Where they do not (accounting lags, or is down) they
are asked again after a pause that doubles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from batchhub.core.model import JobId, JobState, Observation, Server, ServerId

_ASK_AGAIN = timedelta(seconds=2)
_MAY_COME_BACK = frozenset({JobState.PREEMPTED, JobState.NODE_FAIL})
"""Ends after which a scheduler may run the job again under the same id: what was true of it a moment ago may be no more."""


@dataclass(slots=True)
class _Absence:
    """One job's. ``answers``: the good answers in a row without it. ``asked``: how often its records were asked for in vain."""

    since: datetime
    answers: int = 0
    asked: int = 0
    ask_at: datetime | None = None


class Absences:
    """Of one cluster. ``longest`` is the longest pause between two questions about the same job's record, in seconds."""

    def __init__(self, longest: float) -> None:
        self._longest = timedelta(seconds=longest)
        self._absent: dict[ServerId, _Absence] = {}
        self._ends: dict[ServerId, tuple[JobId, Observation]] = {}

    def __bool__(self) -> bool:
        """Whether any job's whereabouts are being found out."""
        return bool(self._absent)

    def __len__(self) -> int:
        return len(self._absent)

    def noted(self, server_id: ServerId, now: datetime) -> int:
        """One more good answer lacks the job; how many do by now."""
        absence = self._absent.setdefault(server_id, _Absence(now))
        absence.answers += 1
        return absence.answers

    def answers(self, server_id: ServerId) -> int | None:
        """How many good answers in a row lack it; ``None`` if it is not missing."""
        absence = self._absent.get(server_id)
        return absence.answers if absence is not None else None

    def begun(self, server_id: ServerId, now: datetime) -> None:
        """It is being looked for, and nothing is known yet."""
        self._absent.setdefault(server_id, _Absence(now))

    def over(self, server_id: ServerId) -> None:
        """It is there, or its end is known."""
        self._absent.pop(server_id, None)

    def back(self, server_id: ServerId) -> None:
        """The queue has it: whatever the records said of an end is about an earlier run."""
        self._absent.pop(server_id, None)
        self._ends.pop(server_id, None)

    def waited(self, server_id: ServerId, now: datetime, seconds: float) -> bool:
        """Whether it is missing for that long."""
        absence = self._absent.get(server_id)
        return absence is not None and now - absence.since >= timedelta(seconds=seconds)

    # ------------------------------------------------ its records

    def due(self, rows: Iterable[Server], now: datetime) -> bool:
        """Whether it is time to ask the records about any of them. Who asks asks for all: that costs the scheduler the same."""
        absences = [self._absent.get(row.id) for row in rows]
        return any(one is None or one.ask_at is None or now >= one.ask_at for one in absences)

    def asked(self, server_id: ServerId, now: datetime) -> None:
        """Its records were asked for, and say nothing of its end."""
        absence = self._absent.setdefault(server_id, _Absence(now))
        absence.ask_at = now + min(self._longest, _ASK_AGAIN * 2 ** min(absence.asked, 20))
        absence.asked += 1

    def times_asked(self, server_id: ServerId) -> int:
        """How often in vain."""
        absence = self._absent.get(server_id)
        return absence.asked if absence is not None else 0

    def ended(self, row: Server, end: Observation) -> None:
        """The records know its end, and need not be asked again, unless the job may come back."""
        self._absent.pop(row.id, None)
        if row.job_id is not None and end.report is not None and end.report.state not in _MAY_COME_BACK:
            self._ends[row.id] = (row.job_id, end)

    def end_of(self, row: Server) -> Observation | None:
        """What the records said, if they were asked about this job of the server's."""
        job, end = self._ends.get(row.id, (None, None))
        return end if job == row.job_id else None

    def keep(self, live: set[ServerId]) -> None:
        """Forget all servers but these."""
        for memory in (self._absent, self._ends):
            for server_id in [known for known in memory if known not in live]:
                del memory[server_id]
