"""Sign in with the machine's own accounts, through PAM: whatever ``/etc/pam.d`` says, local files, SSSD, LDAP or Kerberos.

The module ``pamela`` needs libpam and is imported at first use. Checking another person's local password needs root, or
membership in the group ``shadow`` (pam_unix reads ``/etc/shadow`` itself, or through its set-gid helper for one's own account only).
"""

from __future__ import annotations

import logging
import pwd
from collections.abc import Mapping
from typing import Any

from traitlets import Bool, Float, Int, Unicode

from batchhub.auth.base import Authenticator, LoginKind
from batchhub.auth.blocking import Blocking
from batchhub.core.errors import ConfigError, Unreachable

log = logging.getLogger(__name__)


class PAMAuthenticator(Authenticator):
    """User name and password, checked by PAM."""

    kind = LoginKind.PASSWORD

    service = Unicode("login", help="The PAM service: a file in /etc/pam.d.").tag(config=True)
    check_account = Bool(
        True, help="Also ask PAM whether the account may be used now (expired, locked, outside its hours, pam_access)."
    ).tag(config=True)
    open_sessions = Bool(
        False, help="Accepted for JupyterHub's sake and must stay False: the notebook does not run on this machine."
    ).tag(config=True)
    lowest_uid = Int(
        1, help="Accounts with a lower uid are refused. 1 refuses root; 1000 refuses system accounts."
    ).tag(config=True)
    pass_through = Bool(True, help=Authenticator.pass_through.help).tag(config=True)
    timeout = Float(60.0, help="Seconds PAM may take to answer.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.open_sessions:
            raise ConfigError(
                "PAMAuthenticator.open_sessions must be False: the notebook does not run on this machine."
            )
        self._blocking = Blocking("pam")

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """The account's name, or ``None``. Raises Unreachable when PAM does not answer, TooMany, ConfigError without libpam."""
        del handler
        # The name PAM is asked about is the one the hub will know: "Bob" and "bob" may be two accounts.
        name, password = self.normalize_username(str(data.get("username", ""))), str(data.get("password", ""))
        if not name or not password or "\0" in name + password:
            # An account without a password must not be open to the network, even where PAM says nullok.
            return None
        try:
            return await self._blocking.ask(lambda: self._check(name, password), self.timeout)
        except TimeoutError as error:
            log.warning("PAM service %s did not answer within %s s", self.service, self.timeout)
            raise Unreachable("The password check did not answer in time; please try again.") from error

    def _check(self, name: str, password: str) -> str | None:
        """In a thread. pam_start … pam_end on one handle, so that the account check sees what the password check saw."""
        try:
            import pamela  # noqa: PLC0415  (loads libpam, which need not be there)
        except (ImportError, OSError, AttributeError) as error:
            raise ConfigError("PAM sign-in needs the library libpam and the Python package pamela.") from error
        try:
            # resetcred=0: pam_setcred would change the credentials of the hub's own process (groups, key rings).
            pamela.authenticate(name, password, service=self.service, resetcred=0, check=self.check_account)
        except pamela.PAMError as error:
            log.warning("PAM refused %.100r (service %s): %s", name, self.service, error)
            return None
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            log.warning("PAM accepted %.100r, but no such account is known on this machine", name)
            return None
        if account.pw_uid < self.lowest_uid:
            log.warning("sign-in of %.100r refused: uid %d is below lowest_uid", name, account.pw_uid)
            return None
        if self.normalize_username(account.pw_name) != account.pw_name:
            log.warning(
                "sign-in of %.100r refused: the account's name %.100r is spelt otherwise here", name, account.pw_name
            )
            return None
        return account.pw_name

    def close(self) -> None:
        """Let the threads go; those that wait for PAM end when it answers."""
        self._blocking.close()
