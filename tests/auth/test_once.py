"""What is good once."""

from datetime import UTC, datetime, timedelta

import pytest

from batchhub.auth.once import Once
from batchhub.core.errors import TooMany

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_once_and_not_again():
    once = Once()
    assert once.use("a", NOW + 9 * SECOND, NOW)
    assert not once.use("a", NOW + 9 * SECOND, NOW + 8 * SECOND)
    assert once.use("b", NOW + 9 * SECOND, NOW)


def test_what_is_too_old_is_forgotten():
    once = Once()
    for index in range(100):
        assert once.use(str(index), NOW + (index + 1) * SECOND, NOW + index * SECOND)
    assert len(once) == 1


def test_it_refuses_rather_than_forgets():
    once = Once(entries=3)
    for index, seconds in enumerate((90, 10, 90)):
        once.use(str(index), NOW + seconds * SECOND, NOW)
    with pytest.raises(TooMany):
        once.use("new", NOW + 90 * SECOND, NOW + 9 * SECOND)
    assert once.use("new", NOW + 90 * SECOND, NOW + 10 * SECOND), "one of them ended, behind one that did not"
    assert not once.use("0", NOW + 90 * SECOND, NOW + 10 * SECOND)
    assert len(once) == 3


def test_any_text():
    assert Once().use("\ud800\n", NOW + SECOND, NOW)
