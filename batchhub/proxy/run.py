"""The proxy as a program: which of its processes this is, and what it begins with.

The same program with the same arguments is the supervisor, each worker, and the trial before a reload; an environment variable says which.
The supervisor's modules, with a web framework among them, are no worker's to load.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any

import uvloop

from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock
from batchhub.proxy.listeners import TRAFFIC, Listeners, Room, addresses, raise_file_limit
from batchhub.proxy.plane import DataPlane, Parts
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.spawn import CHECK, TAKEOVER, WORKER, Launcher
from batchhub.proxy.tls import ClientTLS, client_context, server_context
from batchhub.proxy.worker import serve

log = logging.getLogger(__name__)

MakeParts = Callable[[], AbstractAsyncContextManager[Parts]]


def run(settings: ProxySettings, parts: MakeParts, clock: Clock) -> None:
    """Do this process' work until it is told to end. Raises ConfigError. ``parts`` are made in workers alone."""
    settings.check()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if WORKER in os.environ:
            end = socket.socket(fileno=int(os.environ.pop(WORKER)))
            end.set_inheritable(False)
            end.setblocking(False)
            runner.run(_work(settings, parts, clock, end))
        elif os.environ.pop(CHECK, None):
            runner.run(_try(settings, parts, clock))
        else:
            _supervise(runner, settings, clock)


async def _work(settings: ProxySettings, parts: MakeParts, clock: Clock, end: socket.socket) -> None:
    async with parts() as made:
        await serve(settings, made, clock, end)


async def _try(settings: ProxySettings, parts: MakeParts, clock: Clock) -> None:
    async with parts() as made:
        await DataPlane(settings, made, clock).close()
    check_certificates(settings)


def check_certificates(settings: ProxySettings) -> None:
    """Raises ConfigError for one that cannot be used."""
    for tls in (settings.tls, settings.api_tls):
        if tls is not None:
            server_context(tls)
    if settings.client_tls != ClientTLS():
        client_context(settings.client_tls)


def _supervise(runner: asyncio.Runner, settings: ProxySettings, clock: Clock) -> None:
    check_certificates(settings)
    room = Room(raise_file_limit(), settings.limits.connections)
    listeners, left = Listeners(), _left_over()
    if left is not None:
        listeners.read(left["listeners"])
    try:
        listeners.open(addresses(settings))
    except ConfigError as error:
        if left is None:
            raise
        log.error("The addresses of before are kept, though others are configured. %s", error)  # noqa: TRY400
    launcher = Launcher((sys.executable, *sys.orig_argv[1:]))
    files = listeners.files(*TRAFFIC)
    # Before anything else is imported: they start while we do.
    children = [launcher.start(files) for _ in range(settings.workers)]
    supervisor = import_module("batchhub.proxy.supervisor").Supervisor(
        settings, clock, listeners=listeners, launcher=launcher, room=room
    )
    try:
        runner.run(supervisor.run(children, left))
    finally:
        listeners.close()


def _left_over() -> dict[str, Any] | None:
    number = os.environ.pop(TAKEOVER, None)
    if number is None:
        return None
    with os.fdopen(int(number), "rb") as file:
        file.seek(0)
        content: dict[str, Any] = json.load(file)
    return content
