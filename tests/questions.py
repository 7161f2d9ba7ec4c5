"""An SSH server on paramiko that asks what a test tells it to (keyboard-interactive, RFC 4256): independent of asyncssh and of OpenSSH."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import paramiko
from paramiko.common import cMSG_USERAUTH_INFO_REQUEST
from paramiko.message import Message

from tests.fakesched.login_node import new_host_key

QUIET = "tests.questions.paramiko"


@dataclass
class Round:
    """What is asked, and the answers that are right (``None``: any)."""

    prompts: Sequence[tuple[str, bool]]
    right: Sequence[str] | None
    title: str = ""
    words: str = ""


@dataclass
class Questioner:
    """One login node. ``rounds`` are asked in turn, for ever the last one if ``endless``; ``password`` is for the method of that name ('': not offered)."""

    rounds: Sequence[Round] = ()
    password: str = ""
    endless: bool = False
    change: bool = False
    """Ask for a new password when the right one is given."""
    methods: str = "keyboard-interactive"
    heard: list[tuple[str, ...]] = field(default_factory=list)
    host: str = "127.0.0.1"

    def __enter__(self) -> Self:
        logging.getLogger(QUIET).setLevel(logging.CRITICAL + 1)
        self.key = new_host_key()
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self.known_hosts = f"[{self.host}]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(transport.is_active() for transport in self._transports)

    def _listen(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(raw)
            transport.set_log_channel(QUIET)
            transport.add_server_key(self.key)
            self._transports.append(transport)
            with suppress(OSError, EOFError, paramiko.SSHException):
                transport.start_server(event=threading.Event(), server=_Server(self, transport))


class _Server(paramiko.ServerInterface):
    def __init__(self, asks: Questioner, transport: paramiko.Transport) -> None:
        self.asks = asks
        self.transport = transport
        self.at = 0

    def get_allowed_auths(self, username: str) -> str:
        return self.asks.methods

    def check_auth_password(self, username: str, password: str) -> int:
        self.asks.heard.append(("password", password))
        if self.asks.change:
            message = Message()
            message.add_byte(bytes([60]))  # SSH_MSG_USERAUTH_PASSWD_CHANGEREQ, RFC 4252 section 8
            message.add_string("Choose another password")
            message.add_string("")
            self.transport._send_message(message)  # type: ignore[attr-defined]
        return paramiko.AUTH_SUCCESSFUL if password == self.asks.password else paramiko.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        self.at = 0
        return self._ask() if self.asks.rounds else paramiko.AUTH_FAILED

    def check_auth_interactive_response(self, responses: list[str]) -> Any:
        self.asks.heard.append(tuple(responses))
        right = self.asks.rounds[self.at].right
        if right is not None and list(responses) != list(right):
            return paramiko.AUTH_FAILED
        if self.at + 1 < len(self.asks.rounds):
            self.at += 1
        elif not self.asks.endless:
            return paramiko.AUTH_SUCCESSFUL
        return self._ask()

    def _ask(self) -> paramiko.InteractiveQuery:
        now = self.asks.rounds[self.at]
        query = paramiko.InteractiveQuery(now.title, now.words)
        for text, shown in now.prompts:
            query.add_prompt(text, shown)
        return query


assert cMSG_USERAUTH_INFO_REQUEST == bytes([60])
