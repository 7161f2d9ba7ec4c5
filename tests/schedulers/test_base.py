"""The helpers all dialects share."""

import contextlib
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, CommandNotFound, Unreachable
from batchhub.core.model import JobId
from batchhub.core.ports import Completed
from batchhub.schedulers import base


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n1,n2,n1", ("n1", "n2")),
        ("node[01-03,7],gpu1", ("node01", "node02", "node03", "node7", "gpu1")),
        ("r[0-1]n[1-2]x", ("r0n1x", "r0n2x", "r1n1x", "r1n2x")),
        ("node[01-02,3,10],gpu-a-1", ("node01", "node02", "node3", "node10", "gpu-a-1")),
        ("n[1-9/4]", ("n1", "n5", "n9")),
        ("n2.site.org", ("n2.site.org",)),
    ],
)
def test_node_sets(text: str, names: tuple[str, ...]) -> None:
    assert base.expand_nodes(text) == names


@pytest.mark.parametrize(
    "text",
    ["n[1-", "n]", "@all", "n[1-3]!n2", "n1&n2", "n 1", "n[3-1]", "n[1,,2]", "n[-]", "n[1/0]", "n[001-3]", ",", "n1,",
     "n[1-10001]", "n[1-999999999]", "n[1-100]m[1-101]", "n[1-9999999999]", "n[1-6000],m[1-6000]", "é", "x" * 200_001],
)  # fmt: skip
def test_malformed_or_huge_node_sets_are_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        base.expand_nodes(text)


@given(st.text(alphabet="ab019-[],/@!&^ .\n", max_size=40))
def test_no_node_set_raises_anything_else(text: str) -> None:
    with contextlib.suppress(BadInput):
        assert len(base.expand_nodes(text)) <= base.MAX_NODES


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:05", 5),
        ("1:30", 90),
        ("01:02:03", 3723),
        ("2-00:00:01", 172801),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("90", 5400),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert base.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "UNLIMITED", "N/A", "1:2:3:4", "-5", "1-", "9" * 9, "１"])
def test_words_are_no_durations(text: str) -> None:
    assert base.parse_duration(text) is None


def test_the_meaning_of_one_and_two_numbers_is_the_dialects() -> None:
    assert base.parse_duration("90", alone=timedelta(seconds=1)) == timedelta(seconds=90)
    assert base.parse_duration("1:30", pair="hm") == timedelta(minutes=90)


@given(st.text(max_size=30))
def test_numbers_times_and_durations_never_raise(text: str) -> None:
    base.parse_int(text)
    base.parse_duration(text)
    base.parse_epoch(text)


def test_times() -> None:
    moment = datetime(2026, 11, 22, 21, 6, 54, tzinfo=UTC)
    assert base.parse_epoch(str(int(moment.timestamp()))) == moment
    assert base.parse_epoch("2026-11-22T21:06:54") == moment
    assert [base.parse_epoch(text) for text in ("N/A", "0", "Unknown", "9" * 15, "2026-99-22T21:06:54", "")] == [
        None
    ] * 6


def test_one_safe_line_for_a_person() -> None:
    assert base.shorten("a\x1b[31m\nb\x00 ") == "a [31m b"
    assert base.shorten("x" * 50, 10) == "x" * 9 + "…"
    assert base.first_line("\n \n one\ntwo") == "one"
    assert base.first_line("\n") == ""


def test_the_noise_of_logins_is_no_complaint() -> None:
    noise = "bash: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)\n\nmesg: ttyname failed\n"
    assert base.complaints(noise + "squeue: error: x") == ["squeue: error: x"]


def test_the_words_of_a_tool() -> None:
    assert base.words_of("sbatch: error: one\n/usr/bin/sbatch: two\nthree", "sbatch") == "one two three"


@pytest.mark.parametrize(
    ("code", "err"),
    [(127, "bash: line 1: squeue: command not found"), (127, ""), (126, "sh: 1: squeue: Permission denied"),
     (1, "sudo: squeue: command not found"), (127, "env: ‘squeue’: No such file or directory"),
     (1, "sh: 1: /opt/slurm/bin/squeue: not found")],
)  # fmt: skip
def test_a_missing_command(code: int, err: str) -> None:
    with pytest.raises(CommandNotFound, match="/opt/slurm/bin/squeue"):
        base.require_command(Completed(code, err=err), "/opt/slurm/bin/squeue")


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (0, "squeue: command not found"),
        (1, "squeue: error: module: command not found"),
        (126, "squeue: error: errno"),
        (None, ""),
    ],
)
def test_a_command_that_is_there(code: int | None, err: str) -> None:
    base.require_command(Completed(code, err=err), "squeue")


@pytest.mark.parametrize(
    "done",
    [Completed(None, timed_out=True), Completed(None), Completed(0, "half", truncated=True)],
)
def test_no_whole_answer_is_unreachable(done: Completed) -> None:
    with pytest.raises(Unreachable):
        base.require_answer(done, "squeue")


def test_ids_are_checked_and_never_an_empty_list() -> None:
    pattern = re.compile(r"\d+")
    assert base.check_ids([JobId("1"), JobId("2"), JobId("1")], pattern) == ("1", "2")
    for odd in ([], [JobId("--help")], [JobId("1\n")]):
        with pytest.raises(BadInput):
            base.check_ids(odd, pattern)


def test_chunks() -> None:
    assert base.chunks([JobId(str(n)) for n in range(5)], 2) == [("0", "1"), ("2", "3"), ("4",)]


def test_bad_rows_are_few_and_short() -> None:
    bad: list[str] = []
    for _ in range(20):
        base.note_bad_row(bad, "x" * 1000)
    assert len(bad) == base.MAX_BAD_ROWS
    assert max(map(len, bad)) <= 120


def test_wait_status() -> None:
    assert base.decode_wait(768) == (3, None)
    assert base.decode_wait(9) == (None, 9)
    assert base.decode_wait(0) == (0, None)
