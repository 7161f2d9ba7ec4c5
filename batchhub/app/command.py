"""What all commands share: reading the configuration, checking its names, logging, and errors as sentences."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from textwrap import wrap
from typing import Any, ClassVar, NoReturn

from traitlets import TraitError, Unicode
from traitlets.config import Application, Config, Configurable, ConfigurableError

from batchhub import __version__
from batchhub.app.site import load_authenticators
from batchhub.app.state import StateDirectory
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.auth.pam import PAMAuthenticator
from batchhub.config.names import check_names
from batchhub.config.tables import suggest
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
        ("f", "config"): (
            "Command.config_file",
            "FILE|The configuration: ./batchhub_config.py or /etc/batchhub's if not said.",
        ),
        "log-level": ("Command.log_words", "LEVEL|How much is logged: debug, info, warning, error."),
        "state-dir": ("BatchHub.state_dir", "DIR|Where database, keys and routes are kept."),
        "ip": ("Proxy.ip", "ADDRESS|The public address; 0.0.0.0 if not said."),
        "port": ("Proxy.port", "PORT|The public port; 8000 if not said."),
    }
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        "debug": ({"Command": {"log_words": "debug"}}, "Log everything."),
    }
    arguments: ClassVar[str] = ""
    """What stands behind the options, for the help."""
    unlisted: ClassVar[frozenset[str]] = frozenset()
    """Options that the help leaves out, because they change nothing here."""

    # ------------------------------------------------ the command line

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """As traitlets does, but what it would pass over with a warning is an error. Raises ConfigError."""
        words = list(sys.argv[1:] if argv is None else argv)
        if not (self.subcommands and words and words[0] in {*self.subcommands, "help"}):
            self._check_flags(words)
        super().parse_command_line(words)

    def _check_flags(self, words: list[str]) -> None:
        known = {_dashed(name) for key in (*self.aliases, *self.flags) for name in _names(key)}
        known |= {"-h", "--help", "--help-all", "-V", "--version"}
        for word in words:
            flag = word.partition("=")[0]
            if word == "--":
                return
            if flag.startswith("--"):
                wrong = "." not in flag and flag not in known
            else:
                wrong = flag.startswith("-") and flag[:2] not in known
            if wrong:
                raise ConfigError(f"{flag}: there is no such option; {suggest(flag, known)} ({self.name} --help)")

    def update_config(self, config: Config) -> None:
        """Before anything is set, the names of all we know are checked: traitlets would only warn. Raises ConfigError."""
        lead = "c." if self._reads_file else "--"
        check_names(config, [*self.classes, type(self)], lead=lead, others=True)
        super().update_config(config)

    _reads_file = False

    # ------------------------------------------------ help

    def emit_help(self, classes: bool = False) -> Generator[str, None, None]:
        """A page for people; ``--help-all`` is traitlets' list of every setting."""
        if classes:
            yield from super().emit_help(classes=True)
            return
        yield f"Usage: {self.name} [options] {self.arguments}".rstrip()
        if self.subcommands:
            yield f"       {self.name} COMMAND [options]"
        yield ""
        yield from wrap(str(self.description), 79)
        if self.subcommands:
            yield from ("", "Commands:")
            yield from _table([(name, words) for name, (_, words) in self.subcommands.items()])
        yield from ("", "Options:")
        yield from _table(
            [
                *self._option_rows(),
                ("-h, --help", "This page."),
                ("--help-all", "Every setting; each is an option too."),
            ]
        )
        if self.examples:
            yield from ("", "Examples:")
            yield from (f"  {line.strip()}" for line in str(self.examples).strip().splitlines())
        yield ""
        if self.subcommands:
            yield f"`{self.name} COMMAND --help` says more about one of them."
        yield "A file with every setting and its meaning: batchhub config --generate. Documentation: docs/configuration.md."
        yield ""

    def _option_rows(self) -> Iterator[tuple[str, str]]:
        for key, (_, text) in self.aliases.items():
            value, _, words = text.partition("|")
            if not self.unlisted.intersection(_names(key)):
                yield f"{_written(key)}={value}", words
        for key, (_, words) in self.flags.items():
            yield _written(key), words

    # ------------------------------------------------ the configuration

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
        self._reads_file = True
        try:
            self.load_config_file(path.name, str(path.parent))
        except (ConfigurableError, TraitError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}") from error
        except SyntaxError as error:
            raise ConfigError(f"{path}, line {error.lineno}: {error.msg}.") from error
        except Exception as error:
            # The site's own Python: whatever it raises is the site's to read, in one line.
            raise ConfigError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}") from error
        finally:
            self._reads_file = False

    def _check_names(self) -> None:
        hub = self.trait(BatchHub)
        classes = [*self.classes, type(self), *load_authenticators(hub.authenticator_class).values()]
        check_names(self.cli_config, classes, lead="--")
        check_names(self.config, classes)

    def trait(self, cls: type[Any]) -> Any:
        """One concern's traits, from the configuration. Raises ConfigError."""
        try:
            return cls(parent=self)
        except TraitError as error:
            raise ConfigError(str(error)) from error

    def state(self) -> StateDirectory:
        """The directory that hub and proxy share. Raises ConfigError."""
        return StateDirectory.open(self.trait(BatchHub).state_dir)

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


def _names(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _dashed(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _written(key: str | tuple[str, ...]) -> str:
    """``-f, --config``."""
    return ", ".join(_dashed(name) for name in sorted(_names(key), key=len))


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(left) for left, _ in rows) + 2
    for left, right in rows:
        first, *more = wrap(right, max(40, 77 - width), break_on_hyphens=False) or [""]
        yield f"  {left:<{width}}{first}"
        yield from (f"  {'':<{width}}{line}" for line in more)


def _line_of(error: Exception, path: Path) -> str:
    """Where in the site's file it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def set_up_logging(level: str) -> None:
    """One line a message on stderr; service managers add the time they see it at, so ours is there for the rest."""
    numbers = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if level not in numbers:
        raise ConfigError(f"--log-level={level}: one of {', '.join(numbers)} is expected.")
    logging.basicConfig(
        level=numbers[level], format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    # Whoever wants to hear warnings alone wants to know who signed in all the same: the trail's rows are thinned because the log has each.
    logging.getLogger("batchhub.audit").setLevel(logging.INFO)
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
