"""Sign in with the accounts of an LDAP directory, groups included.

Either the person's DN is made of the name (``user_dns``), or the person is looked for with the hub's own account (``search_base``); then the
directory is asked whether the password is right, by a simple bind. The hub's name is what the entry says, not what was typed: a directory takes
``ANN`` and ``ann`` for the same, and maybe an alias too. The module ``ldap3`` is imported at first use and blocks, so it works in threads.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from traitlets import Bool, Int, List, Unicode

from batchhub.auth.base import Authenticator, KnownPerson, LoginKind, Place
from batchhub.auth.blocking import Blocking
from batchhub.auth.clock import utc_now
from batchhub.auth.ldap_text import below, first_value, in_dn, in_filter
from batchhub.auth.ldap_wire import Directory, Found, ServerAddress, Session, Unanswered, WrongPassword
from batchhub.auth.rules import outer_names
from batchhub.auth.secretfile import read_secret_file
from batchhub.core.errors import ConfigError, Unreachable
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

_DN = re.compile(r"\s*[A-Za-z0-9][A-Za-z0-9.-]*\s*=")
AWAY = timedelta(seconds=60)
"""For so long a server that did not answer is asked after the others: else everybody waits for it first, and the threads are soon taken."""


class LDAPAuthenticator(Authenticator):
    """User name and password, checked by a directory."""

    kind = LoginKind.PASSWORD

    pass_through = Bool(True, help=Authenticator.pass_through.help).tag(config=True)
    servers = List(
        Unicode(),
        help="Addresses, asked in this order until one answers, those that did not a minute ago last: ldaps://ldap1.example.org, or ldap://… with StartTLS.",
    ).tag(config=True)
    ca_file = Unicode(help="Certificates (PEM) of those who may vouch for the servers. Empty: the system's.").tag(
        config=True
    )
    insecure = Bool(
        False,
        help="Neither encrypt to ldap:// servers nor check anybody's certificate: passwords can be read on the way.",
    ).tag(config=True)
    user_dns = List(
        Unicode(), help="DNs with {username} in them, tried in order: 'uid={username},ou=people,dc=example,dc=org'."
    ).tag(config=True)
    search_base = Unicode(help="Where people are looked for, instead of user_dns.").tag(config=True)
    search_filter = Unicode("(uid={username})", help="Finds one person below search_base.").tag(config=True)
    bind_dn = Unicode(help="The hub's own account, for searching. Empty: anonymously.").tag(config=True)
    bind_password_file = Unicode(help="A file with its password, readable by the hub's account alone (0600).").tag(
        config=True
    )
    name_attribute = Unicode("uid", help="What the person is called here: an attribute of their entry.").tag(
        config=True
    )
    group_base = Unicode(help="Groups below this DN become the person's groups. Empty: none do.").tag(config=True)
    group_filter = Unicode(
        "(|(member={dn})(uniqueMember={dn})(memberUid={username}))",
        help="Finds a person's groups below group_base. Empty: the entry's memberOf is read instead.",
    ).tag(config=True)
    group_attribute = Unicode("cn", help="A group's name, where groups are searched for.").tag(config=True)
    timeout = Int(10, help="Seconds that one server may take over one answer.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._blocking = Blocking("ldap")
        self._directories: tuple[Directory, ...] | None = None
        self._away: dict[Directory, datetime] = {}
        self._clock: Clock = utc_now
        self._bind_password = ""

    def settle(self, place: Place) -> None:
        """Refuse what could not work, or would let in whom nobody meant."""
        self._clock = place.clock
        self._check_where()
        if bool(self.bind_dn) != bool(self.bind_password_file):
            raise ConfigError("c.LDAPAuthenticator: bind_dn and bind_password_file belong together.")
        if self.timeout < 1:
            raise ConfigError("c.LDAPAuthenticator.timeout is at least 1 second.")
        if self.bind_password_file:
            self._bind_password = read_secret_file(self.bind_password_file, "c.LDAPAuthenticator.bind_password_file")
        if self.insecure:
            log.warning("c.LDAPAuthenticator.insecure: passwords go to the directory without protection")
        addresses = [ServerAddress.parse(text) for text in self.servers]
        if not addresses:
            raise ConfigError("c.LDAPAuthenticator.servers names no server.")
        self._directories = tuple(
            Directory(address, self.ca_file, self.timeout, insecure=self.insecure) for address in addresses
        )

    def _check_where(self) -> None:
        """Where people and groups are. Raises ConfigError."""
        if bool(self.user_dns) == bool(self.search_base):
            raise ConfigError("c.LDAPAuthenticator: either user_dns or search_base says where people are.")
        if any("{username}" not in one for one in self.user_dns) or "{username}" not in self.search_filter:
            raise ConfigError("c.LDAPAuthenticator: user_dns and search_filter must hold {username}.")
        for one in self.user_dns:
            if not _DN.match(one):
                raise ConfigError(
                    f"c.LDAPAuthenticator.user_dns: {one!r} is no DN, as 'uid={{username}},ou=people,dc=example,dc=org' is. Where people bind with another "
                    "name (Active Directory), use search_base."
                )
        if (self.allowed_groups or self.admin_groups) and not self.group_base:
            raise ConfigError(
                "c.LDAPAuthenticator.group_base must say below which DN groups count: elsewhere a person might make one."
            )

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Who the entry says it is, with the groups. Raises Unreachable when no server answers, TooMany."""
        del handler
        name, password = str(data.get("username", "")), str(data.get("password", ""))
        if not name or not password or not name.isprintable():
            # An empty password asks for an "unauthenticated" bind, which succeeds for anybody: RFC 4513 section 5.1.2.
            return None
        return await self._answer(name, lambda directory: self._ask(directory, name, password))

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Whether the entry is still there, and its groups; asked with the hub's own account. With ``user_dns`` and no ``bind_dn`` nobody can be asked."""
        del handler
        if not self.search_base and not self.bind_dn:
            return True
        for name in outer_names(self, user.name):
            found = await self._answer(name, partial(self._look, name=name))
            if found is not None:
                return found
        return False

    async def _answer(self, name: str, question: Callable[[Directory], T]) -> T | None:
        """In a thread, of the first directory that answers. Raises Unreachable, TooMany."""
        directories = self._directories
        if directories is None:
            raise ConfigError("LDAPAuthenticator was not settled before its first use.")
        try:
            # Each server may be asked for a few things, each with its own limit.
            seconds = self.timeout * 4.0 * len(directories)
            return await self._blocking.ask(lambda: self._ask_each(directories, name, question), seconds)
        except TimeoutError as error:
            log.warning("no LDAP server answered within %s s", seconds)
            raise Unreachable("The directory of people did not answer in time; please try again.") from error

    def knows_groups(self) -> bool:
        """Only where something says which of them count."""
        return bool(self.group_base)

    def close(self) -> None:
        """Let the threads go."""
        self._blocking.close()

    def _ask_each(self, directories: tuple[Directory, ...], name: str, question: Callable[[Directory], T]) -> T | None:
        """In a thread, about ``name``. The first server that answers decides; a wrong password is not tried at another."""
        now, away = self._clock(), dict(self._away)
        for directory in sorted(directories, key=lambda one: one in away and now - away[one] < AWAY):
            try:
                return question(directory)
            except WrongPassword as error:
                log.warning("%s refused %.100r: %s", directory.address, name, error)
                return None
            except Unanswered as error:
                log.warning("%s did not answer: %s", directory.address, error)
                self._away[directory] = now
        raise Unreachable("The directory of people does not answer; please try again in a minute.")

    def _ask(self, directory: Directory, name: str, password: str) -> Mapping[str, Any] | None:
        if self.search_base:
            return self._search_then_bind(directory, name, password)
        refused = WrongPassword("no user_dns")
        for template in self.user_dns:
            dn = template.replace("{username}", in_dn(name))
            try:
                with directory.bound(dn, password) as session:
                    found = session.read(dn, self._attributes())
                    if found is None:
                        log.warning("%s: %.200r may not read their own entry", directory.address, dn)
                        return None
                    return self._person(session.search, found, name)
            except WrongPassword as error:
                refused = error
        raise refused

    def _search_then_bind(self, directory: Directory, name: str, password: str) -> Mapping[str, Any] | None:
        with directory.service(self.bind_dn, self._bind_password) as session:
            found = self._find(directory, session, name)
            if found is None:
                # A bind that fails, as for a wrong password: the time must not tell who is in the directory.
                with contextlib.suppress(WrongPassword), directory.bound(self.search_base, password):
                    pass
                return None
            with directory.bound(found.dn, password):
                pass
            return self._person(session.search, found, name)

    def _find(self, directory: Directory, session: Session, name: str) -> Found | None:
        wanted = self.search_filter.replace("{username}", in_filter(name))
        people = session.search(self.search_base, wanted, self._attributes(), 2)
        if len(people) != 1:
            log.warning("%s: %d entries for %.100r, one is expected", directory.address, len(people), name)
            return None
        return people[0]

    def _look(self, directory: Directory, name: str) -> Mapping[str, Any] | None:
        """The person as they are now, without their password."""
        with directory.service(self.bind_dn, self._bind_password) as session:
            if self.search_base:
                found = self._find(directory, session, name)
            else:
                dns = (template.replace("{username}", in_dn(name)) for template in self.user_dns)
                found = next(filter(None, (session.read(dn, self._attributes()) for dn in dns)), None)
            return None if found is None else self._person(session.search, found, name)

    def _attributes(self) -> list[str]:
        return [self.name_attribute, "memberOf"]

    def _person(self, search: Any, found: Found, typed: str) -> Mapping[str, Any] | None:
        names = found.values(self.name_attribute)
        same = [one for one in names if self.normalize_username(one) == self.normalize_username(typed)]
        name = same[0] if same else names[0] if len(names) == 1 else ""
        if not name:
            log.warning("the entry %.200r has no %s, or several", found.dn, self.name_attribute)
            return None
        return {"name": name, "groups": self._groups(search, found, name)}

    def _groups(self, search: Any, found: Found, name: str) -> list[str]:
        if not self.group_base:
            return []
        if not self.group_filter:
            return [first_value(dn) for dn in found.values("memberOf") if below(dn, self.group_base)]
        wanted = self.group_filter.replace("{dn}", in_filter(found.dn)).replace("{username}", in_filter(name))
        return [
            one
            for group in search(self.group_base, wanted, [self.group_attribute], 0)
            for one in group.values(self.group_attribute)[:1]
        ]
