"""Sign in with names and password hashes from the configuration: for trying things, small groups, and as the example to copy.

``batchhub hash-password`` prints a hash to put there.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from traitlets import Dict, Unicode, validate
from traitlets.traitlets import TraitError

from batchhub.auth.base import PASSWORD_LIMIT, Authenticator, KnownPerson, LoginKind
from batchhub.auth.blocking import Blocking
from batchhub.auth.rules import outer_names
from batchhub.core.errors import BadInput, Unreachable

log = logging.getLogger(__name__)

CHECKS = 2
"""Checks at a time: each takes a core for a moment, and 64 MiB."""
PATIENCE = 60.0
"""Seconds that somebody waits for their turn and the check."""


class DictionaryAuthenticator(Authenticator):
    """A table of people. Everybody in it may sign in."""

    kind = LoginKind.PASSWORD

    users = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="Normalised user name -> Argon2 hash of the password, as 'batchhub hash-password' prints it.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._blocking = Blocking("passwords", threads=CHECKS)
        self._salt = secrets.token_bytes(16)

    @validate("users")
    def _check_users(self, proposal: Mapping[str, Any]) -> dict[str, str]:
        for name, digest in proposal["value"].items():
            plain = self.normalize_username(name)
            if plain != name:
                raise TraitError(
                    f"users[{name!r}]: nobody is known here by this name; {plain!r} is how it is looked up."
                )
            try:
                extract_parameters(digest)
            except InvalidHashError:
                # The value may be a password somebody put there in the clear: it is not repeated, nor kept as a cause.
                raise TraitError(
                    f"users[{name!r}] is not an Argon2 hash; 'batchhub hash-password' prints one."
                ) from None
        return dict(proposal["value"])

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """The name, if the password is the one its hash was made of. Raises TooMany, and Unreachable when this machine was too busy or full for the check."""
        del handler
        name, password = self.normalize_username(str(data.get("username", ""))), str(data.get("password", ""))
        try:
            right = await self._blocking.ask(lambda: self._verify(name, password), PATIENCE)
        except TimeoutError as error:
            raise Unreachable("The password check did not end in time; please try again.") from error
        return name if right else None

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Whether they are in the table still."""
        del handler
        return next(({"name": name} for name in outer_names(self, user.name) if name in self.users), False)

    def knows_groups(self) -> bool:
        """None can come from here."""
        return False

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """Being in the table is the permission; ``allowed_users``, if given, narrows it."""
        if self.allowed_users:
            return bool(super().check_allowed(username, authentication))
        return True

    def close(self) -> None:
        """Let the threads go."""
        self._blocking.close()

    def _verify(self, name: str, password: str) -> bool:
        digest = self.users.get(name)
        try:
            # Somebody who is not in the table costs the same time as a wrong password.
            right = PasswordHasher().verify(digest or self._others(name), password)
        except VerifyMismatchError:
            return False
        except VerificationError as error:
            # Not a word about the password: Argon2 had no memory, or no thread, on a machine that is full.
            log.warning("the password of %.100r could not be checked: %s", name, error)
            raise Unreachable("Passwords cannot be checked right now. Please try again in a moment.") from error
        return right and digest is not None and bool(password)

    def _others(self, name: str) -> str:
        """The hash of somebody in the table, always the same one for a name: what a check costs is in the hash, and may differ from ours of today."""
        digests: list[str] = list(self.users.values()) or [hash_password(secrets.token_hex(16))]
        number = blake2b(name.encode("utf-8", "replace"), key=self._salt, digest_size=8).digest()
        return digests[int.from_bytes(number) % len(digests)]


def hash_password(password: str) -> str:
    """An Argon2id hash with the library's present parameters. Raises BadInput for one that sign-in would not take."""
    if not password or "\0" in password or len(password.encode()) > PASSWORD_LIMIT:
        raise BadInput(f"A password has 1 to {PASSWORD_LIMIT} bytes and no NUL.")
    return PasswordHasher().hash(password)
