import pytest

from batchhub.core.errors import NotFound, Unreachable
from batchhub.transport.answer import Answer, Bounded, last_words, read_answer

FENCE = "batchhub-0123456789abcdef"
MARK = FENCE.encode() + b"\n"


def test_bounded_keeps_the_first_bytes() -> None:
    buffer = Bounded(5)
    buffer.add(b"abc")
    buffer.add(b"de")
    assert not buffer.more
    buffer.add(b"f")
    buffer.add(b"g")
    assert (buffer.value(), buffer.more) == (b"abcde", True)


def test_banners_are_taken_away() -> None:
    raw = Answer(0, b"Welcome\n" + MARK + b"42\n", b"noise" + MARK)
    assert read_answer(raw, FENCE, 100, "alice on login1") == Answer(0, b"42\n", b"")


def test_output_is_cut_after_the_fence() -> None:
    raw = Answer(0, b"x" * 50 + MARK + b"y" * 11, MARK)
    assert read_answer(raw, FENCE, 10, "alice on login1") == Answer(0, b"y" * 10, b"", truncated=True)


def test_no_fence_is_not_an_answer() -> None:
    with pytest.raises(Unreachable, match="alice on login1: This account is currently not available"):
        read_answer(Answer(1, b"This account is currently not available.\n", b""), FENCE, 100, "alice on login1")
    with pytest.raises(Unreachable, match="exit code 0"):
        read_answer(Answer(0), FENCE, 100, "alice on login1")


def test_sudo_knows_no_such_account() -> None:
    with pytest.raises(NotFound):
        read_answer(
            Answer(1, b"", b"sudo: unknown user: bob\nsudo: error initializing audit plugin\n"), FENCE, 9, "bob"
        )


def test_late_without_a_fence_is_late() -> None:
    late = Answer(None, timed_out=True)
    assert read_answer(late, FENCE, 100, "alice") == late


def test_last_words_are_short_and_printable() -> None:
    assert last_words(b"one\ntwo\n\n\x1b[31mthree\x1b[0m\nfour\xff\n") == "two [31mthree[0m four�"
    assert len(last_words(b"x" * 5000)) == 300


def test_completed_is_decoded() -> None:
    assert Answer(0, b"\xc3\xa4\xff").completed().out == "ä�"
