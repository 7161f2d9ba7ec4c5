"""The order of the tests: files that take minutes first, so that no worker is left alone with one of them at the end. No example is timed."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine an example may take any time. What Hypothesis sets for CI (no random seed) stays.
settings.register_profile("batchhub", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("batchhub")

_LONG = (
    "e2e/test_slurm",
    "e2e/test_fakesched",
    "control/test_crashes",
    "e2e/",
    "lab/",
    "engines/",
    "bench/",
    "proxy/test_supervisor",
)
_HERE = Path(__file__).parent


def _rank(item: pytest.Item) -> int:
    place = item.path.relative_to(_HERE).as_posix()
    return next((number for number, start in enumerate(_LONG) if place.startswith(start)), len(_LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """xdist hands out files in this order where it is told not to sort them by their number of tests."""
    items.sort(key=_rank)
