"""The directory that hub and proxy share: keys, database, routes, the detached proxy's traces."""

from __future__ import annotations

import os
import resource
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from batchhub.auth.secrets import load_or_create_key
from batchhub.auth.vaultfile import VaultFile
from batchhub.core.errors import ConfigError


def utc_now() -> datetime:
    """The clock of the real programs."""
    return datetime.now(UTC)  # noqa: TID251 - the one place where time comes from; everybody else is handed it


def no_core_dump() -> None:
    """A dump of hub or proxy would hold keys, tokens and people's passwords. What they start may ask for its own again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """A directory of ours that nobody else can enter."""

    path: Path

    @classmethod
    def open(cls, name: str) -> StateDirectory:
        """Make it if it is missing. Raises ConfigError if it is not ours alone."""
        path = Path(name).absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = path.stat()
        except OSError as error:
            raise ConfigError(f"state_dir {path} cannot be made or read: {error.strerror}.") from error
        if about.st_uid != os.geteuid():
            raise ConfigError(
                f"state_dir {path} belongs to uid {about.st_uid}, not to uid {os.geteuid()} that runs this."
            )
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise ConfigError(f"state_dir {path} can be entered by others; it holds keys: chmod 700 {path}")
        return cls(path)

    def key(self, name: str) -> bytes:
        """A key of this name, made at its first use. Raises ConfigError."""
        return load_or_create_key(self.path / f"{name}.key")

    @property
    def vault(self) -> VaultFile:
        """What seals the secrets that are kept of people."""
        return VaultFile(self.path / "vault.keys")

    @property
    def api_token(self) -> str:
        """What the hub shows to the proxy's control API."""
        return os.environ.get("CONFIGPROXY_AUTH_TOKEN") or self.key("proxy_api").hex()

    @property
    def database(self) -> str:
        """The default database's address."""
        return f"sqlite:///{self.path / 'batchhub.sqlite'}"

    @property
    def routes(self) -> Path:
        """The proxy's routes and revocations."""
        return self.path / "routes.json"

    @property
    def proxy_pid(self) -> Path:
        """The pid of a detached proxy."""
        return self.path / "proxy.pid"

    @property
    def proxy_log(self) -> Path:
        """What a detached proxy says."""
        return self.path / "proxy.log"
