"""Random and broken messages, read by us and by two independent readers: h11, and llhttp through httptools.

What we take has to be what they take: method, target, headers, body, and where the message ends. That we refuse more than they do is fine;
that anything but :class:`Refused` comes out of a reader is not. Examples are the same at every run.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchhub.proxy.settings import Limits
from tests.proxy.harness import App, World, running, world
from tests.proxy.messages import (
    CUTS,
    NASTY,
    Message,
    Read,
    answer_by_h11,
    answers,
    broken,
    by_h11,
    check_forwarded,
    ours,
    pieces_of,
    read_answer,
    requests,
)

FEW = settings(max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=500)
LIVE = settings(FEW, max_examples=150)

# ---------------------------------------------------------------- requests


@FEW
@given(st.lists(requests(), min_size=1, max_size=4), CUTS)
def test_valid_requests_are_read_as_they_were_meant(messages: list[Message], cuts: list[int]) -> None:
    raw = b"".join(message.raw for message in messages)
    found, rest, refused = ours(raw, cuts)
    assert (rest, refused, len(found)) == (b"", False, len(messages))
    for message, (head, read) in zip(messages, found, strict=True):
        assert (read.method.decode(), read.target.decode(), read.body) == (message.method, message.target, message.body)
        assert read.headers == [(name.lower(), value) for name, value in message.headers]
        assert read.whole
        check_forwarded(head, read)


@MANY
@given(broken(requests()), CUTS)
def test_broken_requests_are_refused_or_read_as_others_read_them(case: tuple[Message, bytes], cuts: list[int]) -> None:
    _, raw = case
    raw += b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"
    found, rest, refused = ours(raw, cuts)
    whole = [read for _, read in found if read.whole]
    at_once, _, refused_at_once = ours(raw)
    assert ([read for _, read in at_once if read.whole], refused_at_once) == (whole, refused), "however it comes"
    for head, read in found:
        if read.whole:
            check_forwarded(head, read)
    try:
        theirs, left = by_h11(raw)
    except h11.RemoteProtocolError:
        theirs, left = [], b""
    for mine, other in zip(whole, theirs, strict=False):
        assert (mine.method, mine.body, mine.headers) == (other.method, other.body, other.headers)
    if not refused and len(theirs) == len(whole) == len(found):
        assert left == rest


@MANY
@given(st.lists(st.one_of(NASTY, st.binary(max_size=6)), max_size=12), st.integers(0, 3))
def test_any_bytes_at_all_are_read_or_refused(parts: list[bytes], where: int) -> None:
    valid = [b"POST /a HTTP/1.1\r\nHost: x\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"]
    raw = b"".join([*valid[:where], *parts, *valid[where:]])
    for head, read in ours(raw)[0]:
        if read.whole:
            check_forwarded(head, read)


# ---------------------------------------------------------------- answers


@FEW
@given(answers(), CUTS)
def test_valid_answers_are_read_as_they_were_meant(message: Message, cuts: list[int]) -> None:
    reader, _ = read_answer(message.raw, message.method, cuts)
    (head,) = reader.heads
    assert (head.status, head.reason, reader.body, reader.end) == (message.status, b"As it is", message.body, "whole")
    assert [(lower, value) for lower, _, value in head.headers] == [
        (name.lower(), value) for name, value in message.headers
    ]


@MANY
@given(broken(answers()), CUTS)
def test_broken_answers_are_refused_or_read_as_h11_reads_them(case: tuple[Message, bytes], cuts: list[int]) -> None:
    message, raw = case
    reader, _ = read_answer(raw, message.method, cuts)
    assert reader.end in {"whole", "broken"}
    if reader.end != "whole":
        return
    try:
        status, body, _ = answer_by_h11(raw, message.method)
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"h11 does not take it: {error}") from error
    assert (reader.heads[-1].status, reader.body) == (status, body)


# ---------------------------------------------------------------- through a running proxy


@dataclass
class Recorder:
    """An application that reads with h11, and answers what it is told to."""

    seen: list[Read] = field(default_factory=list)
    answer: bytes = b""
    errors: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        them = h11.Connection(h11.SERVER)
        try:
            while True:
                event = them.next_event()
                if event is h11.NEED_DATA:
                    data = await reader.read(65536)
                    if not data:
                        return
                    them.receive_data(data)
                elif isinstance(event, h11.Request):
                    one = Read(event.method, event.target, list(event.headers))
                elif isinstance(event, h11.Data):
                    one.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.seen.append(one)
                    if self.answer:
                        writer.write(self.answer)
                        return
                    body = b"%b %b %b" % (one.method, one.target, one.body[:9].hex().encode())
                    sent = b"" if one.method == b"HEAD" else body
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), sent))
                    them.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
                    them.send(h11.EndOfMessage())
                    them.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self.errors.append(str(error))


@pytest.fixture
def live(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[asyncio.Runner, World, Recorder]]:
    """A proxy and an application behind it, on a loop that stands still between examples."""
    recorder, stack = Recorder(), AsyncExitStack()

    async def start() -> World:
        app = await stack.enter_async_context(running(App(serve=recorder)))
        w = await stack.enter_async_context(world(tmp_path, limits=Limits(linger=0.02, tick=0.01), access_log=False))
        w.route("/", app.port)
        return w

    with asyncio.Runner() as runner:
        try:
            yield runner, runner.run(start()), recorder
        finally:
            runner.run(stack.aclose())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_pipelined_requests_reach_the_application_one_by_one_as_they_were_meant(
    live: tuple[asyncio.Runner, World, Recorder],
) -> None:
    runner, w, recorder = live

    async def send(raw: bytes, cuts: list[int]) -> bytes:
        reader, writer = await w.connect()
        for piece in pieces_of(raw, cuts):
            writer.write(piece)
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    @LIVE
    @given(st.lists(requests(), min_size=1, max_size=4), CUTS)
    def all_arrive(messages: list[Message], cuts: list[int]) -> None:
        recorder.seen.clear()
        # Paths of which one is forwarded as it came; which are not is another test's business.
        raw = b"".join(
            message.raw.replace(message.target.encode(), b"/%d" % n, 1) for n, message in enumerate(messages)
        )
        answer = runner.run(send(raw + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", cuts))
        expected = [(message.method.encode(), b"/%d" % n, message.body) for n, message in enumerate(messages)]
        assert [(one.method, one.target, one.body) for one in recorder.seen] == [*expected, (b"GET", b"/last", b"")]
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == len(messages) + 1
        assert answer.endswith(b"GET /last ")

    all_arrive()
    assert recorder.errors == []


def test_broken_requests_never_reach_the_application_otherwise_than_h11_reads_them(
    live: tuple[asyncio.Runner, World, Recorder],
) -> None:
    runner, w, recorder = live

    async def send(raw: bytes) -> bytes:
        reader, writer = await w.connect()
        writer.write(raw)
        writer.write_eof()
        answer = b""
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    @LIVE
    @given(broken(requests()))
    def never_otherwise(case: tuple[Message, bytes]) -> None:
        _, raw = case
        raw += b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"
        recorder.seen.clear()
        runner.run(send(raw))
        understood = [read for _, read in ours(raw)[0] if read.whole]
        # The application can have got fewer: the client said that it sends no more, and an early answer ends the connection.
        assert len(recorder.seen) <= len(understood)
        for got, read in zip(recorder.seen, understood, strict=False):
            assert (got.method, got.body) == (read.method, read.body)

    never_otherwise()
    assert recorder.errors == []


def test_broken_answers_reach_no_client_otherwise_than_h11_reads_them(
    live: tuple[asyncio.Runner, World, Recorder],
) -> None:
    runner, w, recorder = live

    async def fetch(method: str, version: str) -> bytes | None:
        """All that came, or nothing if it was broken off."""
        reader, writer = await w.connect()
        writer.write(f"{method} / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        try:
            return await asyncio.wait_for(reader.read(), 60)
        except ConnectionError:
            return None
        finally:
            writer.close()

    @LIVE
    @given(
        st.one_of(broken(answers()), answers().map(lambda message: (message, message.raw))),
        st.sampled_from(["1.1", "1.0"]),
    )
    def never_otherwise(case: tuple[Message, bytes], version: str) -> None:
        message, recorder.answer = case
        got = runner.run(fetch(message.method, version)) or b""
        try:
            status, body, rest = answer_by_h11(got, message.method)
        except h11.RemoteProtocolError:
            status, body, rest = 502, b"", b""  # seen to be broken off
        if status == 502:
            assert recorder.answer != message.raw, "what is valid arrives"
            return
        assert (status, body) == answer_by_h11(recorder.answer, message.method)[:2]
        assert rest == b""

    never_otherwise()
