"""Submits that did not answer: whose job is looked for by its name, when, and when it may be called absent. Pure; time is handed in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from batchhub.core.errors import HubError
from batchhub.core.model import Server, ServerId
from batchhub.core.ports import Clock, Command, JobRequest

_LONGEST_SUBMIT = timedelta(minutes=5)
"""Longer than any dialect of ours lets a submit command run, unless its site says so."""


class Unanswered:
    """Of one cluster. Seconds: ``find_after`` a submit's end its job is first looked for, after ``absent_after`` it may be absent.

    ``finds``: the most that are looked for in one tick; after an outage there may be hundreds, and each is a command of its own.
    ``submit`` makes a submit command, whose deadline counts.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        find_after: float,
        absent_after: float,
        finds: int,
        submit: Callable[[JobRequest], Command],
    ) -> None:
        self._clock = clock
        self._find_after = timedelta(seconds=find_after)
        self._absent_after = timedelta(seconds=absent_after)
        self._finds = finds
        self._submit = submit
        self._began = clock()
        self._submitting: set[ServerId] = set()
        self._ended: dict[ServerId, datetime] = {}
        self._turns: dict[ServerId, int] = {}
        self._turn = 0

    @contextlib.contextmanager
    def submitting(self, server_id: ServerId) -> Iterator[None]:
        """While its submit command runs nobody looks for its job."""
        self._submitting.add(server_id)
        try:
            yield
        finally:
            self._submitting.discard(server_id)
            self._ended[server_id] = self._clock()

    def those_to_find(self, rows: Iterable[Server]) -> list[Server]:
        """Those whose turn it is."""
        now = self._clock()
        due = [row for row in rows if row.id not in self._submitting and self._age(row, now) >= self._find_after]
        self._turn += 1
        for row in due:
            self._turns.setdefault(row.id, 0)
        chosen = sorted(due, key=lambda row: self._turns[row.id])[: self._finds]
        for row in chosen:
            self._turns[row.id] = self._turn
        return chosen

    def may_be_absent(self, row: Server, now: datetime) -> bool:
        """Whether its submit command can create nothing any more."""
        patience = self._absent_after
        if row.submit_tried is not None and row.submit_tried < self._began:
            # A hub before this one began to submit. The command may run on where nobody waits for it any more, to its deadline.
            patience += self._deadline(row)
        return self._age(row, now) >= patience

    def _deadline(self, row: Server) -> timedelta:
        """How long its submit command may run. Some dialects build none without its script, which that hub alone had."""
        try:
            command = self._submit(JobRequest(row.job_name, row.directory, "", row.account))
        except HubError:
            return _LONGEST_SUBMIT
        return timedelta(seconds=command.deadline)

    def _age(self, row: Server, now: datetime) -> timedelta:
        """Since when its submit command runs no more, as far as is known."""
        tried = row.submit_tried or now
        return now - max(tried, self._ended.get(row.id, tried))

    def keep(self, live: set[ServerId]) -> None:
        """Forget all servers but these."""
        for memory in (self._ended, self._turns):
            for server_id in [known for known in memory if known not in live]:
                del memory[server_id]
