import asyncio
import logging
import re
import select
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from batchhub.proxy.accesslog import NAME, AccessLog
from tests.proxy.harness import App, Clock, running
from tests.proxy.processes import proxy, talk


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger(NAME)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(before)


class Written(list[str]):
    """What is written, and when the first of it was."""

    def __init__(self) -> None:
        self.some = asyncio.Event()

    def __call__(self, text: str) -> None:
        self.append(text)
        self.some.set()


def note(log: AccessLog, path: str = "/x", user: str = "", *, at: float | None = None) -> None:
    now = asyncio.get_running_loop().time() if at is None else at
    log.note(b"GET", path, 200, (user, "2001:db8::1"), size=12, now=now, took=0.0034)


async def test_lines_are_as_logging_writes_them_and_are_written_together() -> None:
    written, clock = Written(), Clock()
    loop = asyncio.get_running_loop()
    log, now = AccessLog(loop, clock, written), loop.time()
    note(log, "/a", "alice", at=now)
    note(log, "/b", at=now + 1.25)
    assert not written
    await asyncio.wait_for(written.some.wait(), 5)
    record = logging.LogRecord(NAME, logging.INFO, "", 0, "GET /a 200 alice 2001:db8::1 12 bytes 3.4 ms", None, None)
    record.created, record.msecs = clock.now.timestamp(), 0.0
    wanted = logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s").format(record)
    assert len(written) == 1
    first, second = written[0].splitlines()
    assert re.sub(r",\d{3}", "", first) == re.sub(r",\d{3}", "", wanted)
    assert second.endswith("GET /b 200 - 2001:db8::1 12 bytes 3.4 ms")
    between = datetime.fromisoformat(second[:23].replace(",", ".")) - datetime.fromisoformat(
        first[:23].replace(",", ".")
    )
    assert abs(between.total_seconds() - 1.25) <= 0.002
    log.close()


async def test_each_write_is_whole_lines_and_fits_into_a_pipe() -> None:
    written = Written()
    log = AccessLog(asyncio.get_running_loop(), Clock(), written)
    for number in range(10_000):
        note(log, f"/{number}")
    assert len("".join(written)) > 256 * 1024, "what waits is bounded"
    note(log, "/" + "long" * 10_000)
    log.close()
    assert all(text.endswith("\n") and len(text) <= select.PIPE_BUF for text in written)
    lines = "".join(written).splitlines()
    assert [line.split()[5] for line in lines[:-1]] == [f"/{number}" for number in range(10_000)]
    before = len(written)
    note(log, "/late")
    assert len(written) == before + 1, "after its end nothing waits"


async def test_nobody_writes_a_line_of_his_own() -> None:
    written = Written()
    log = AccessLog(asyncio.get_running_loop(), Clock(), written)
    note(log, "/a\nb\x1b[2J", "ann bo\u202e\udc80")
    log.close()
    assert written[0].count("\n") == 1
    assert "GET /a\\nb\\x1b[2J 200 ann\\x20bo\\u202e\\udc80 2001:db8::1 12 bytes" in written[0]


async def test_the_level_of_the_logger_decides(logger: logging.Logger) -> None:
    written = Written()
    log = AccessLog(asyncio.get_running_loop(), Clock(), written)
    logger.setLevel(logging.WARNING)
    note(log)
    log.close()
    assert not written


async def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    log = AccessLog(asyncio.get_running_loop(), Clock())
    monkeypatch.setattr("sys.stderr", Full())
    note(log)
    log.close()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_nothing_is_lost_when_the_proxy_ends_at_once(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2) as w:
        await w.route("/open", app)
        for number in range(20):
            assert (await w.get(f"/open/{number}"))[0] == 200
        await w.stop()
        words = [line.split() for line in w.log().splitlines() if f" I {NAME}: " in line]
        assert sorted(int(line[5].rpartition("/")[2]) for line in words) == list(range(20))
