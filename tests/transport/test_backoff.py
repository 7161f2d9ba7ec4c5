from datetime import UTC, datetime

import pytest

from batchhub.core.errors import Unreachable
from batchhub.transport.backoff import Backoff

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def next_try(backoff: Backoff, now: float) -> float:
    while True:
        try:
            backoff.check(now)
        except Unreachable:
            now += 0.25
        else:
            return now


def test_pauses_grow_to_a_limit_and_start_over() -> None:
    backoff = Backoff(lambda: 1.0, first=1.0, longest=8.0)
    backoff.check(0.0)
    now = 0.0
    pauses = []
    for _ in range(6):
        backoff.failed("no", now, AT)
        after = next_try(backoff, now)
        pauses.append(after - now)
        now = after
    assert pauses == [1, 2, 4, 8, 8, 8]
    backoff.worked()
    backoff.check(now)
    backoff.failed("no", now, AT)
    assert next_try(backoff, now) - now == 1


def test_a_failure_may_have_pauses_of_its_own() -> None:
    backoff = Backoff(lambda: 1.0, first=1.0, longest=8.0)
    now, pauses = 0.0, []
    for own in ((10.0, 25.0), (10.0, 25.0), (10.0, 25.0), None):
        backoff.failed("no", now, AT, own)
        after = next_try(backoff, now)
        pauses.append(after - now)
        now = after
    assert pauses == [10, 20, 25, 8]


def test_pauses_are_spread() -> None:
    backoff = Backoff(lambda: 0.0, first=4.0)
    backoff.failed("no", 0.0, AT)
    assert next_try(backoff, 0.0) == 2.0


def test_meanwhile_everybody_is_told() -> None:
    backoff = Backoff(lambda: 1.0, first=30.0)
    backoff.failed("login1:22: Connection refused.", 100.0, AT)
    backoff.failed("login1:22: Connection refused.", 100.0, AT.replace(hour=9))
    with pytest.raises(Unreachable, match=r"login1:22: Connection refused. So since 03:04:05 UTC; next try in 50 s."):
        backoff.check(110.0)
