"""Signing in with the cluster account: the login node's own sshd says who somebody is.

Whatever sshd asks for is asked on the sign-in page: a password, a code, both, in any number of rounds. The connection is closed as soon as
sshd has let the person in; nothing is run there. What a half-finished sign-in holds is in this hub's memory alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from traitlets import Bool, Float, Int, Unicode

from batchhub.auth.base import Asked, Authenticator, Brought, LoginKind, Place
from batchhub.auth.halfopen import Half, HalfOpen
from batchhub.core.asking import Accepted, Door, Refused, Verdict
from batchhub.core.errors import BadInput, ConfigError, Denied

log = logging.getLogger(__name__)

LATE = "This sign-in took too long, or was begun in another browser. Please begin again."


class SSHAuthenticator(Authenticator):
    """User name, password and whatever else the login node's sshd asks for."""

    kind = LoginKind.PASSWORD

    cluster = Unicode(
        "", help="The cluster whose login node is asked, with the host, port and known_hosts that its table ssh has."
    ).tag(config=True)
    host = Unicode("", help="Instead of cluster: the host whose sshd is asked.").tag(config=True)
    port = Int(22, help="The port of its sshd.").tag(config=True)
    known_hosts = Unicode("", help="Its host key: a path, or lines as ssh-keyscan prints them.").tag(config=True)
    pass_through = Bool(True, help=Authenticator.pass_through.help).tag(config=True)
    patience = Float(
        100.0,
        help="Seconds from the password to the last answer. sshd hangs up by itself after its LoginGraceTime (120 by default).",
    ).tag(config=True)
    most_open = Int(
        30,
        help="Sign-ins at one time, those that wait for somebody to type a code counted. sshd's MaxStartups (10:30:100 by default) holds for the "
        "same connections.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 10 <= self.patience <= 600:
            raise ConfigError(f"SSHAuthenticator.patience is {self.patience:g}; 10 to 600 seconds are possible.")
        if self.most_open < 1:
            raise ConfigError("SSHAuthenticator.most_open is at least 1.")
        self._half = HalfOpen(self.most_open)
        self._door: Door | None = None

    def settle(self, place: Place) -> None:
        """Find the login node. Raises ConfigError where its host key could not be checked."""
        if place.doors is None:
            raise ConfigError("SSHAuthenticator can only be used by a hub that reaches login nodes.")
        if bool(self.cluster) == bool(self.host):
            raise ConfigError(
                "SSHAuthenticator needs either cluster, the name of a configured one, or host: whose sshd knows the passwords?"
            )
        if self.cluster:
            self._door = place.doors.of_cluster(self.cluster)
        else:
            self._door = place.doors.of_host(self.host, self.port, self.known_hosts)

    def knows_groups(self) -> bool:
        """Sshd says none."""
        return False

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | Asked | None:
        """The account's name, or what else sshd asks. Raises Unreachable when it cannot be asked, TooMany, Denied in words."""
        if "ticket" in data:
            return await self._go_on(handler, data)
        # sshd is asked about the name that the hub will know: "Ann" and "ann" may be two accounts.
        name, password = self.normalize_username(str(data.get("username", ""))), str(data.get("password", ""))
        if not name or not password or self._door is None:
            return None
        self._half.begin()
        try:
            try:
                talk, verdict = await self._door.knock(name, password, self.patience)
            except (BadInput, Denied) as error:
                log.warning("sign-in of %.100r refused before anybody was asked: %s", name, error)
                return None
            return self._answer(Half(talk, name, _address(handler)), verdict)
        finally:
            self._half.done()

    async def _go_on(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | Asked | None:
        half = self._half.take(str(data["ticket"]))
        if half is None:
            raise Denied(LATE)
        try:
            verdict = await half.talk.answer([str(answer) for answer in data.get("answers", ())])
            return self._answer(replace(half, address=_address(handler)), verdict)
        except BaseException:
            half.talk.close()
            raise
        finally:
            self._half.done()

    def _answer(self, half: Half, verdict: Verdict) -> Mapping[str, Any] | Asked | None:
        """What a verdict means to the page. Raises Denied where the person needs more words than "no"."""
        if isinstance(verdict, Accepted):
            if not self.pass_through and verdict.held is not None:
                verdict.held.close()
            return {"name": half.name, "brought": Brought(verdict.password, verdict.held)}
        if isinstance(verdict, Refused):
            log.warning(
                "the sshd of %s refused %.100r: %s", self._door.host if self._door else "?", half.name, verdict.why
            )
            if verdict.words:
                raise Denied(verdict.words)
            return None
        return Asked(verdict, self._half.keep(half))

    def close(self) -> None:
        """Hang up on everybody who has not answered yet."""
        self._half.close()


def _address(handler: Any) -> str:
    return str(getattr(getattr(handler, "request", None), "remote_ip", "") or "")
