"""Durations and memory as people write them; a partition's limits as sentences."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput
from batchhub.core.limits import format_memory, format_walltime, over_limits, parse_memory, parse_walltime
from batchhub.core.model import QueueInfo


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28800),
        ("8H", 28800),
        ("90m", 5400),
        ("90 min", 5400),
        ("1d 12h", 129600),
        ("1d12h30m", 131400),
        ("8:00", 28800),
        ("0:01:30", 90),
        ("8:00:00", 28800),
        ("1-12:00:00", 129600),
        ("1-0:30", 88200),
        (" 2h ", 7200),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert parse_walltime(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "8", "90", "-1h", "1.5h", "8:60", "8:0", "1:00:60", "8h 8h", "12h 1d", "h", "１h", "8h;id", "1e3m", "٣h"],
)
def test_no_times(text: str) -> None:
    with pytest.raises(BadInput, match="is not a time; write it as 8h"):
        parse_walltime(text)


@pytest.mark.parametrize("text", ["0h", "0:00", "0d 0h"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(BadInput, match="at least a minute"):
        parse_walltime(text)


@pytest.mark.parametrize(
    ("seconds", "text", "exact"),
    [
        (0, "0m", "0m"),
        (1, "1m", "0:00:01"),
        (90, "2m", "0:01:30"),
        (3600, "1h", "1h"),
        (90000, "1d 1h", "1d 1h"),
        (86400 + 90, "1d 2m", "24:01:30"),
    ],
)
def test_times_are_shown_short_or_exactly(seconds: int, text: str, exact: str) -> None:
    assert format_walltime(timedelta(seconds=seconds)) == text
    assert format_walltime(timedelta(seconds=seconds), exact=True) == exact


@given(st.integers(1, 999 * 86400))
def test_what_is_shown_exactly_reads_back(seconds: int) -> None:
    assert parse_walltime(format_walltime(timedelta(seconds=seconds), exact=True)) == timedelta(seconds=seconds)


@given(st.integers(1, 999 * 1440))
def test_whole_minutes_are_always_exact(minutes: int) -> None:
    assert parse_walltime(format_walltime(timedelta(minutes=minutes))) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("8", 8192), ("8G", 8192), ("8 GiB", 8192), ("8gb", 8192), ("512M", 512), ("1.5T", 1572864), ("0.5", 512)],
)
def test_memory(text: str, mib: int) -> None:
    assert parse_memory(text) == mib


@pytest.mark.parametrize(
    "text", ["", "G", "-8", "8K", "8GG", "1e3", "8,5", "0x8", "８", "8G;id", "nan", "inf", "99999999"]
)
def test_no_memory(text: str) -> None:
    with pytest.raises(BadInput, match="is not an amount of memory"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["0", "0.000M", "0.4M"])
def test_no_memory_at_all(text: str) -> None:
    with pytest.raises(BadInput, match="at least 1M"):
        parse_memory(text)


@given(st.integers(1, 10**7 - 1))
def test_memory_reads_back(mib: int) -> None:
    assert parse_memory(format_memory(mib)) == mib


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_walltime, parse_memory):
        with suppress(BadInput):
            assert read(text)


def test_a_refusal_quotes_no_more_than_is_needed() -> None:
    for read in (parse_walltime, parse_memory):
        with pytest.raises(BadInput) as caught:
            read("x" * 10_000)
        assert len(str(caught.value)) < 200


GPU = QueueInfo(
    "gpu", max_walltime=timedelta(hours=8), max_cores=32, max_memory_mib=64 * 1024, max_gpus=4, gpu_types=("a100",)
)


def test_what_is_over_a_limit_is_a_sentence_each() -> None:
    asked = {"cores": 33, "memory": 64 * 1024 + 1, "walltime": 8 * 3600 + 1, "gpus": 5, "partition": "gpu"}
    assert over_limits(GPU, asked) == {
        "cores": "partition gpu has at most 32 cores on a node.",
        "memory": "partition gpu has at most 64G of memory on a node.",
        "walltime": "partition gpu allows at most 8h.",
        "gpus": "partition gpu has at most 4 GPUs on a node.",
    }


def test_up_to_the_limit_is_allowed() -> None:
    assert not over_limits(GPU, {"cores": 32, "memory": 64 * 1024, "walltime": 8 * 3600, "gpus": 4})
    assert not over_limits(GPU, {})


def test_no_gpus_is_said_so() -> None:
    assert over_limits(QueueInfo("cpu", max_gpus=0), {"gpus": 1}) == {"gpus": "partition cpu has no GPUs."}


def test_no_limit_said_is_no_limit() -> None:
    assert not over_limits(QueueInfo("any"), {"cores": 10**6, "memory": 10**9, "walltime": 10**9, "gpus": 99})
