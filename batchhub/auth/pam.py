"""Sign in with the machine's own accounts, through PAM: whatever ``/etc/pam.d`` says, local files, SSSD, LDAP or Kerberos.

The module ``pamela`` needs libpam and is imported at first use. Checking another person's local password needs root, or
membership in the group ``shadow`` (pam_unix reads ``/etc/shadow`` itself, or through its set-gid helper for one's own account only).
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from traitlets import Bool, Float, Int, Unicode

from batchhub.auth.base import Authenticator, KnownPerson, LoginKind, Place
from batchhub.auth.blocking import THREADS, Blocking
from batchhub.auth.rules import outer_names
from batchhub.core.errors import ConfigError, Denied, Unreachable

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPIRED = "Your password has expired. Change it (sign in to the cluster with ssh, for instance), then come back."


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
    refuse_nologin = Bool(
        True, help="Refuse accounts whose shell is nologin or false, which sshd and login do not let in either."
    ).tag(config=True)
    timeout = Float(60.0, help="Seconds PAM may take to answer.").tag(config=True)
    threads = Int(
        THREADS,
        min=1,
        max=64,
        help="Questions to PAM at a time. 1 where one of its modules is not made for threads; more where answers take seconds and many come at once.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.open_sessions:
            raise ConfigError(
                "PAMAuthenticator.open_sessions must be False: the notebook does not run on this machine."
            )
        self._blocking = Blocking("pam", threads=self.threads)

    def settle(self, place: Place) -> None:
        """Raises ConfigError without libpam, and warns of a service that nobody could sign in by."""
        del place
        _library()
        if os.geteuid() and not os.access("/etc/shadow", os.R_OK):
            log.info(
                "PAM: this process may not read /etc/shadow, so passwords of this machine's own accounts will read as wrong; those of SSSD, LDAP and Kerberos do not."
            )
        if _SERVICES[0].is_dir() and not any((one / self.service).is_file() for one in _SERVICES):
            log.warning(
                "PAM has no service %r: there is no %s. It takes the service 'other' for it, which refuses everybody as a rule.",
                self.service,
                _SERVICES[0] / self.service,
            )

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The account's name and groups, or ``None``. Raises Unreachable when PAM does not answer, or cannot, Denied for an expired password, TooMany, ConfigError without libpam."""
        del handler
        # The name PAM is asked about is the one the hub will know: "Bob" and "bob" may be two accounts.
        name, password = self.normalize_username(str(data.get("username", ""))), str(data.get("password", ""))
        if not name or not password or "\0" in name + password or "/" in name:
            # An account without a password must not be open to the network, even where PAM says nullok; and modules make paths of names.
            return None
        return await self._ask(lambda: self._check(name, password))

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Whether the account is there and may be used, and its groups. A password that was locked (``passwd -l``) is not seen so."""
        del handler
        for name in outer_names(self, user.name):
            found = await self._ask(partial(self._check_again, name))
            if found is not None:
                return found
        return False

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await self._blocking.ask(question, self.timeout)
        except TimeoutError as error:
            log.warning("PAM service %s did not answer within %s s", self.service, self.timeout)
            raise Unreachable("The password check did not answer in time; please try again.") from error

    def _check(self, name: str, password: str) -> Mapping[str, Any] | None:
        """In a thread. pam_start … pam_end on one handle, so that the account check sees what the password check saw."""
        pamela = _library()
        try:
            # resetcred=0: pam_setcred would change the credentials of the hub's own process (groups, key rings).
            pamela.authenticate(name, password, service=self.service, resetcred=0, check=self.check_account)
        except pamela.PAMError as error:
            log.warning("PAM refused %.100r (service %s): %s", name, self.service, error)
            if error.errno == _NEW_PASSWORD:
                # pam_acct_mgmt says so, which is asked after the password was right.
                raise Denied(EXPIRED) from error
            if error.errno == _NO_ANSWER:
                log.warning(
                    "PAM service %s asks for more than a password; SSHAuthenticator could pass it on", self.service
                )
            if error.errno not in _REFUSALS:
                raise Unreachable("Passwords cannot be checked right now. Please try again later.") from error
            return None
        return self._account(name)

    def _check_again(self, name: str) -> Mapping[str, Any] | None:
        """In a thread, without a password. Raises Unreachable where PAM could not say."""
        pamela = _library()
        if self.check_account:
            try:
                pamela.check_account(name, service=self.service)
            except pamela.PAMError as error:
                log.warning("PAM refuses the account %.100r (service %s): %s", name, self.service, error)
                if error.errno not in _REFUSALS:
                    raise Unreachable("The accounts of this machine cannot be asked now.") from error
                return None
        return self._account(name)

    def _account(self, name: str) -> Mapping[str, Any] | None:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            log.warning("no account %.100r is known on this machine", name)
            return None
        refusal = self._refuses(account)
        if refusal:
            log.warning("sign-in of %.100r refused: %s", name, refusal)
            return None
        return {"name": account.pw_name, "groups": _groups(account)}

    def _refuses(self, account: pwd.struct_passwd) -> str:
        if account.pw_uid < self.lowest_uid:
            return f"uid {account.pw_uid} is below lowest_uid"
        if self.normalize_username(account.pw_name) != account.pw_name:
            return f"the account's name {account.pw_name:.100} is spelt otherwise here"
        if self.refuse_nologin and PurePosixPath(account.pw_shell).name in _NO_SHELLS:
            return f"its shell is {account.pw_shell:.100} (refuse_nologin)"
        return ""

    def close(self) -> None:
        """Let the threads go; those that wait for PAM end when it answers."""
        self._blocking.close()


_SERVICES = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"), Path("/usr/etc/pam.d"))
"""Where Linux-PAM looks, pam.d(5), and where distributions' own files are."""
_NEW_PASSWORD = 12
"""NEW_AUTHTOK_REQD, as Linux-PAM numbers it (_pam_types.h)."""
_NO_ANSWER = 19
"""CONV_ERR."""
_REFUSALS = frozenset({6, 7, 10, 11, _NEW_PASSWORD, 13})
"""Of pam_authenticate(3) and pam_acct_mgmt(3), what speaks of the account and not of PAM: PERM_DENIED, AUTH_ERR, USER_UNKNOWN, MAXTRIES, NEW_AUTHTOK_REQD,
ACCT_EXPIRED. Others: a module is missing, a daemon or directory is away, this process may not read /etc/shadow, more is asked than a password."""
_NO_SHELLS = frozenset({"nologin", "false"})


def _groups(account: pwd.struct_passwd) -> list[str]:
    """The account's groups by name, its own first; numbers without a name do not count."""
    names = []
    for number in os.getgrouplist(account.pw_name, account.pw_gid):
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(number).gr_name)
    return names


def _library() -> Any:
    try:
        import pamela  # noqa: PLC0415  (loads libpam, which need not be there)
    except (ImportError, OSError, AttributeError) as error:
        raise ConfigError("PAM sign-in needs the library libpam and the Python package pamela.") from error
    return pamela
