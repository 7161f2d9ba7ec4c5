"""What all commands share: reading the configuration, checking its names, logging, and errors as sentences."""

from __future__ import annotations

import logging
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from traitlets import TraitError, Unicode
from traitlets.config import Application, Configurable, ConfigurableError

from batchhub import __version__
from batchhub.app.site import load_authenticator
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.auth.pam import PAMAuthenticator
from batchhub.config.names import check_names
from batchhub.config.traits import CONCERNS, BatchHub
from batchhub.core.errors import ConfigError, HubError

DEFAULT_FILES = ("batchhub_config.py", "/etc/batchhub/batchhub_config.py")


class Command(Application):
    """A ``batchhub`` command. Subclasses say what they do in :meth:`act`."""

    name = "batchhub"
    version = __version__
    raise_config_file_errors = True
    config_file = Unicode(
        help="The configuration: a Python file with c = get_config(). Default: batchhub_config.py here, else in /etc/batchhub."
    ).tag(config=True)
    log_words = Unicode("info", help="How much is logged: debug, info, warning or error.").tag(config=True)
    classes: ClassVar[list[type[Configurable]]] = [*CONCERNS, PAMAuthenticator, DictionaryAuthenticator]  # type: ignore[misc]
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        ("f", "config"): "Command.config_file",
        "log-level": "Command.log_words",
        "state-dir": "BatchHub.state_dir",
        "ip": "Proxy.ip",
        "port": "Proxy.port",
    }
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        "debug": ({"Command": {"log_words": "debug"}}, "Log everything."),
    }

    def load(self) -> None:
        """Read the configuration file, put the command line above it, check every name. Raises ConfigError."""
        from_command_line = deepcopy(self.config)
        path = self._find_file()
        if path is not None:
            self._read_file(path)
            self.update_config(from_command_line)
        self._check_names()

    @property
    def config_path(self) -> Path | None:
        """The file that is read."""
        return self._find_file()

    def _find_file(self) -> Path | None:
        if self.config_file:
            path = Path(self.config_file)
            if not path.is_file():
                raise ConfigError(f"The configuration file {path} does not exist.")
            return path.resolve()
        return next((Path(name).resolve() for name in DEFAULT_FILES if Path(name).is_file()), None)

    def _read_file(self, path: Path) -> None:
        try:
            self.load_config_file(path.name, str(path.parent))
        except (ConfigurableError, TraitError) as error:
            raise ConfigError(f"{path}: {error}") from error
        except Exception as error:
            # The site's own Python: whatever it raises is the site's to read, in one line.
            raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error

    def _check_names(self) -> None:
        hub = BatchHub(parent=self)
        check_names(self.config, [*self.classes, type(self), load_authenticator(hub.authenticator_class)])

    def trait(self, cls: type[Any]) -> Any:
        """One concern's traits, from the configuration. Raises ConfigError."""
        try:
            return cls(parent=self)
        except TraitError as error:
            raise ConfigError(str(error)) from error

    def start(self) -> None:
        """What the command does, after the configuration was read."""
        if self.subapp is not None:
            self.subapp.start()
            return
        self.load()
        set_up_logging(self.log_words)
        self.act()

    def act(self) -> None:
        """The command itself."""
        raise NotImplementedError


def set_up_logging(level: str) -> None:
    """One line a message on stderr; service managers add the time they see it at, so ours is there for the rest."""
    numbers = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if level not in numbers:
        raise ConfigError(f"--log-level={level}: one of {', '.join(numbers)} is expected.")
    logging.basicConfig(
        level=numbers[level], format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    for chatty in ("asyncssh", "alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(max(numbers[level], logging.WARNING))


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, flush=True)  # noqa: T201


def run(command: type[Command], argv: list[str] | None = None) -> NoReturn:
    """Run a command to its end; an error is one sentence and an exit status, never a traceback."""
    try:
        app = command.instance()
        app.initialize(argv)
        app.start()
    except HubError as error:
        print(f"batchhub: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except (TraitError, ConfigurableError) as error:
        print(f"batchhub: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
