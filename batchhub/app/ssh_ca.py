"""The files of the SSH authority in ``state_dir``: its key, the next one during a rotation, what was revoked."""

from __future__ import annotations

import getpass
import os
import secrets
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from batchhub.app.site import Site
from batchhub.app.state import StateDirectory
from batchhub.core.errors import BadInput, ConfigError, Unreachable
from batchhub.core.ports import Clock
from batchhub.job.offers import key_pair
from batchhub.transport.certificates import Authority, Purpose, key_id
from batchhub.transport.shell import check_account

NOW, NEXT = "ssh_ca", "ssh_ca_next"


@dataclass(frozen=True, slots=True)
class AuthorityFiles:
    """``ssh_ca.key`` signs; ``ssh_ca_next.key`` is there from ``rotate`` to ``finish``."""

    state: StateDirectory

    def create(self) -> None:
        """Make the key. Raises BadInput if there is one."""
        if self._has(NOW):
            raise BadInput(
                f"There is an authority already ({self._path(NOW)}); `batchhub ssh-ca rotate` makes the next one."
            )
        self.state.key(NOW)

    def rotate(self) -> None:
        """Make the next key, with which nothing is signed yet. Raises BadInput."""
        self.seed()
        if self._has(NEXT):
            raise BadInput(
                "A rotation is under way: when every sshd trusts both lines of `batchhub ssh-ca print`, `batchhub ssh-ca finish` ends it."
            )
        self.state.key(NEXT)
        self._write_list()

    def finish(self) -> None:
        """From now on sign with the next key, and forget the one before. Raises BadInput."""
        if not self._has(NEXT):
            raise BadInput("No rotation is under way; `batchhub ssh-ca rotate` begins one.")
        self.state.key(NEXT)  # is it readable?
        self._path(NEXT).replace(self._path(NOW))
        self._write_list()

    def seed(self) -> bytes:
        """Of the key that signs. Raises Unreachable if there is none, ConfigError if it is not ours alone."""
        if not self._has(NOW):
            raise Unreachable("There is no SSH authority in state_dir: `batchhub ssh-ca create` makes one.")
        return self.state.key(NOW)

    def public_lines(self) -> list[str]:
        """The lines of ``TrustedUserCAKeys``."""
        self.seed()
        names = [name for name in (NOW, NEXT) if self._has(name)]
        return [f"{key_pair(self.state.key(name)).public} {name.replace('ssh_ca', 'batchhub-ca')}" for name in names]

    @property
    def revoked(self) -> Path:
        """The list (KRL) for sshd's ``RevokedKeys``."""
        return self.state.path / "ssh_ca.krl"

    def revoke(self, principals: list[str]) -> None:
        """Add all certificates for these SSH users, those of later too, to the list. Raises BadInput, ConfigError."""
        self.seed()
        for principal in principals:
            check_account(principal, wide=True)
        self._write_names({*self.names(), *principals})
        self._write_list()

    def restore(self, principals: list[str]) -> None:
        """Take them out of the list. Raises BadInput for one that is not there."""
        names = self.names()
        for principal in principals:
            if principal not in names:
                raise BadInput(
                    f"{principal[:64]!r} is not revoked; those who are: {', '.join(sorted(names)) or 'nobody'}."
                )
        self._write_names(names - set(principals))
        self._write_list()

    def names(self) -> set[str]:
        """The SSH users that are revoked. Raises ConfigError."""
        try:
            return set(self._revoked_names.read_text(encoding="utf-8").split())
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise ConfigError(f"{self._revoked_names} cannot be read: {error.strerror}.") from error

    def _write_names(self, names: set[str]) -> None:
        _replace(self._revoked_names, "".join(f"{name}\n" for name in sorted(names)).encode())

    def _write_list(self) -> None:
        """For each key there is: a KRL names certificates by who signed them."""
        names = self.names()
        if not names and not self.revoked.exists():
            return
        lines = "".join(f"id: {key_id(purpose, name)}\n" for name in sorted(names) for purpose in Purpose)
        with tempfile.TemporaryDirectory(dir=self.state.path, prefix=".krl-") as place:
            krl, words, public = (Path(place) / name for name in ("krl", "words", "ca.pub"))
            words.write_text(lines, encoding="utf-8")
            for number, line in enumerate(self.public_lines()):
                public.write_text(f"{line}\n", encoding="utf-8")
                update = ["-u"] if number else []
                _keygen(["-q", "-k", *update, "-f", str(krl), "-s", str(public), str(words)])
            _replace(self.revoked, krl.read_bytes())

    @property
    def _revoked_names(self) -> Path:
        return self.state.path / "ssh_ca.revoked"

    def _path(self, name: str) -> Path:
        return self.state.path / f"{name}.key"

    def _has(self, name: str) -> bool:
        return os.path.lexists(self._path(name))


def site_authority(site: Site, state: StateDirectory, clock: Clock) -> Authority | None:
    """What signs for the clusters that have ``sign_in = "ca"``; ``None`` where none has.

    Raises ConfigError if it was not made, or if the hub's own account on one of them is root.
    """
    users = {cluster.name: cluster.ssh for cluster in site.clusters if cluster.ssh and cluster.ssh.sign_in == "ca"}
    if not users:
        return None
    for name, ssh in users.items():
        if (ssh.service_username or getpass.getuser()) == "root":
            raise ConfigError(
                f"cluster {name!r}: sign_in = 'ca' signs nothing for root. Name the hub's own account there: service_username."
            )
    files = AuthorityFiles(state)
    try:
        files.seed()
    except Unreachable as error:
        raise ConfigError(f"cluster {next(iter(users))!r}: sign_in = 'ca'. {error}") from error
    return Authority(files.seed, clock, files.names)


def _keygen(arguments: list[str]) -> None:
    try:
        done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        raise ConfigError(
            f"ssh-keygen, which writes the list of what is revoked, cannot be run: {error.strerror}."
        ) from error
    if done.returncode != 0:
        raise ConfigError(f"ssh-keygen wrote no list of what is revoked: {done.stderr.strip()[:300]}")


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as opened:  # noqa: PTH123 - a descriptor
        opened.write(data)
    beside.replace(path)
