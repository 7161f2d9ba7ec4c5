"""What goes through the Unix socket between two of the proxy's processes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.core.errors import TunnelError
from batchhub.core.ports import Stream, StreamHandler
from batchhub.transport.doors import Caller, Door, _Wire, call
from tests.tunnel.conftest import Recorder


class Pipe:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = ""

    def writelines(self, parts) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = self.closed or "close"

    def abort(self) -> None:
        self.closed = self.closed or "abort"


class Heard:
    def __init__(self) -> None:
        self.data = b""
        self.eof = False
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.eof = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def wire() -> tuple[_Wire, Pipe, Heard]:
    made, pipe, heard = _Wire(), Pipe(), Heard()
    made.connection_made(pipe)  # type: ignore[arg-type]
    made.handler = heard  # type: ignore[assignment]
    return made, pipe, heard


@given(
    st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30), st.booleans()
)
def test_it_arrives_as_it_was_sent_however_it_is_cut(parts: list[bytes], cuts: list[int], ends: bool) -> None:
    sender, pipe, _ = wire()
    for part in parts:
        sender.write(part)
    if ends:
        sender.write_eof()
    sender.close()
    receiver, _, heard = wire()
    data, turn = pipe.written, 0
    while data:
        size = cuts[turn % len(cuts)]
        receiver.data_received(data[:size])
        data, turn = data[size:], turn + 1
    receiver.connection_lost(None)
    assert (heard.data, heard.eof, heard.lost) == (b"".join(parts), ends, [None])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_nonsense_is_no_answer(data: bytes) -> None:
    receiver, _, heard = wire()
    receiver.data_received(data)
    receiver.connection_lost(None)
    assert len(heard.lost) == 1


def test_an_end_without_a_word_is_a_bad_end() -> None:
    receiver, _, heard = wire()
    receiver.connection_lost(None)
    assert isinstance(heard.lost[0], TunnelError)


def test_a_bad_end_comes_with_its_words() -> None:
    sender, pipe, _ = wire()
    sender.write(b"half")
    sender.say_why(TunnelError("The job’s connection was lost."))
    receiver, other, heard = wire()
    receiver.data_received(pipe.written)
    receiver.connection_lost(None)
    assert (heard.data, str(heard.lost[0]), other.closed) == (b"half", "The job’s connection was lost.", "abort")


async def opening_nothing(_factory: Callable[[], StreamHandler]) -> StreamHandler:
    raise TunnelError("Nobody is at home.")


async def test_a_refusal_is_told(tmp_path: Path) -> None:
    tasks: set[asyncio.Task[None]] = set()
    door = Door(tmp_path / "x.sock")
    await door.open(lambda: Caller(opening_nothing, lambda work: tasks.add(asyncio.ensure_future(work))))
    with pytest.raises(TunnelError, match=r"^Nobody is at home\.$"):
        await call(tmp_path / "x.sock", Recorder)
    await asyncio.gather(*tasks)
    assert door.stands
    door.close()
    assert not (tmp_path / "x.sock").exists()
    with pytest.raises(OSError, match="No such file"):
        await call(tmp_path / "x.sock", Recorder)


async def test_the_newest_door_stands(tmp_path: Path) -> None:
    doors = [Door(tmp_path / "x.sock") for _ in range(2)]
    for door in doors:
        await door.open(lambda: Caller(opening_nothing, asyncio.ensure_future))
    assert [door.stands for door in doors] == [False, True]
    doors[0].close()
    assert doors[1].stands
    assert [path.name for path in tmp_path.iterdir()] == ["x.sock"]
    doors[1].close()


async def test_a_caller_that_is_gone_before_its_stream_is_there(tmp_path: Path) -> None:
    go, closed = asyncio.Event(), asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    class Far:
        def abort(self) -> None:
            closed.set()

    async def slow(factory: Callable[[], StreamHandler]) -> StreamHandler:
        await go.wait()
        made = factory()
        stream: Stream = Far()  # type: ignore[assignment]
        made.connection_made(stream)
        return made

    door = Door(tmp_path / "x.sock")
    await door.open(lambda: Caller(slow, lambda work: tasks.add(asyncio.ensure_future(work))))
    asking = asyncio.ensure_future(call(tmp_path / "x.sock", Recorder))
    while not tasks:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    go.set()
    async with asyncio.timeout(60):
        await closed.wait()
    await asyncio.gather(*tasks)
    door.close()
