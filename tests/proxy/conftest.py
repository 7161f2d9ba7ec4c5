"""The proxy's tests run on uvloop, as the proxy does, and on asyncio's own loop, so that nothing leans on the quirks of either."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


@pytest.hookimpl(optionalhook=True)  # older pytest-asyncio: asyncio's loop alone
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
