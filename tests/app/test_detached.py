"""The proxy that `batchhub` keeps: started again when it died, left alone when it lives or was ended on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchhub.app.detached import ProxyStartError, keep_detached
from batchhub.app.state import StateDirectory


class Enough(Exception):
    """So often was looked."""


async def looks(state: StateDirectory, number: int, failures: int = 0) -> tuple[int, list[float]]:
    """How often it was started in so many looks, and the pauses before them."""
    started, pauses = 0, []

    async def sleep(seconds: float) -> None:
        if seconds < 1:
            return  # the second glance
        pauses.append(seconds)
        if len(pauses) > number:
            raise Enough

    def start() -> int:
        nonlocal started
        started += 1
        if started <= failures:
            raise ProxyStartError("The port is taken.")
        state.proxy_pid.unlink()
        return 1

    with pytest.raises(Enough):
        await keep_detached(state, start, sleep)
    return started, pauses


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.open(str(tmp_path / "state"))


async def test_one_that_died_is_started_again_the_later_the_more_often_it_failed(
    state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    state.proxy_pid.write_text("999999999\n")
    started, pauses = await looks(state, 9, failures=7)
    assert started == 8
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60, 2]
    assert "tried again in 60 seconds: The port is taken." in caplog.text


async def test_one_that_was_stopped_stays_down(state: StateDirectory) -> None:
    assert await looks(state, 3) == (0, [2.0] * 4)


async def test_one_that_lives_is_left_alone(state: StateDirectory) -> None:
    words = ("-m", "batchhub", "proxy", f"--state-dir={state.path}")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words]) as proxy:
        try:
            state.proxy_pid.write_text(f"{proxy.pid}\n")
            while not Path(f"/proc/{proxy.pid}/cmdline").read_bytes():  # in execve(2) there is none
                pass
            assert (await looks(state, 3))[0] == 0
        finally:
            proxy.kill()
