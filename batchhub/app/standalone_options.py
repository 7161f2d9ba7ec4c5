"""configurable-http-proxy's command line: its options, and how each value is read.

What the values mean together is :mod:`batchhub.app.standalone`'s business.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from batchhub import __version__
from batchhub.config.tables import suggest
from batchhub.core.errors import BadInput, ConfigError
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.settings import MAX_WORKERS
from batchhub.proxy.target import read_target

TOKEN = "CONFIGPROXY_AUTH_TOKEN"  # noqa: S105 - the variable's name
PASSPHRASE = "CONFIGPROXY_SSL_KEY_PASSPHRASE"  # noqa: S105 - the variable's name
API_PASSPHRASE = "CONFIGPROXY_API_SSL_KEY_PASSPHRASE"  # noqa: S105 - the variable's name

_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*:\s*([\x20-\x7e\xa0-\xff]*?)\s*")
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}


# ---------------------------------------------------------------- values


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; a number from 1 to 65535 is expected.")
    return int(text)


def _milliseconds(text: str) -> float:
    """In seconds."""
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; a whole number of milliseconds is expected.")
    return int(text) / 1000


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes; 1 to {MAX_WORKERS} is expected.")
    return int(text)


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}.")
    return Path(text).absolute()


def _directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text!r}.")
    return Path(text).absolute()


def _place(text: str) -> Path:
    """A file that will be written."""
    path = Path(text).absolute()
    if not text or not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in a directory that exists.")
    return path


def _target(text: str) -> str:
    try:
        read_target(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _host(text: str) -> str:
    return "" if text == "*" else text


def _protocol(text: str) -> str:
    if text not in {"http", "https"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'http' or 'https'.")
    return text


def _header(text: str) -> tuple[str, str]:
    read = _FIELD.fullmatch(text.strip())
    if read is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a header; 'Name: value' is expected.")
    if read[1].lower() in _FRAMING:
        raise argparse.ArgumentTypeError(
            f"{read[1]} says where a message ends or a connection leads; it cannot be set."
        )
    return read[1], read[2]


def _networks(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    try:
        TrustedProxies(names)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _level(text: str) -> str:
    try:
        return _LEVELS[text.lower()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not debug, info, warn or error.") from error


# ---------------------------------------------------------------- options


@dataclass(frozen=True, slots=True)
class _Option:
    """``value`` and ``read`` are empty for a switch; ``refused`` says why an option of configurable-http-proxy's is none here."""

    name: str
    help: str
    value: str = ""
    read: Callable[[str], Any] | None = None
    many: bool = False
    refused: str = ""


_RC4 = "RC4 is broken (RFC 7465) and current OpenSSL does not have it."
_BACKEND = "Routes are kept in memory here, and with --state-file in a file; there are no storage back-ends."

_GROUPS: Mapping[str, Sequence[_Option]] = {
    "Where to listen": (
        _Option("--ip", "The public address; every address if not said.", "ADDRESS", _host),
        _Option("--port", "The public port; 8000 if not said.", "PORT", _port),
        _Option("--socket", "A Unix socket instead of address and port.", "PATH", _place),
        _Option("--api-ip", "The control API's address; localhost if not said.", "ADDRESS", _host),
        _Option("--api-port", "The control API's port; the public one plus 1 if not said.", "PORT", _port),
        _Option("--api-socket", "A Unix socket instead of the API's address and port.", "PATH", _place),
        _Option("--redirect-port", "Send plain HTTP on this port on to https.", "PORT", _port),
        _Option("--redirect-to", "The port to name then; the public one if not said.", "PORT", _port),
        _Option("--metrics-ip", "The metrics' address; every address if not said.", "ADDRESS", _host),
        _Option("--metrics-port", "The metrics' port; no metrics if not said.", "PORT", _port),
        _Option("--metrics-socket", "A Unix socket instead of the metrics' address and port.", "PATH", _place),
    ),
    "TLS of the public port": (
        _Option("--ssl-key", f"The key (PEM); {PASSPHRASE} holds its passphrase.", "FILE", _file),
        _Option("--ssl-cert", "The certificate and its chain (PEM).", "FILE", _file),
        _Option("--ssl-ca", "Who signs clients' certificates.", "FILE", _file),
        _Option("--ssl-request-cert", "Clients must show a certificate."),
        _Option("--ssl-reject-unauthorized", "Goes without saying: --ssl-request-cert rejects others."),
        _Option("--ssl-protocol", "TLSv1_2 or TLSv1_3 alone; both if not said.", "NAME", str),
        _Option("--ssl-ciphers", "OpenSSL's cipher list for TLS 1.2.", "LIST", str),
        _Option("--ssl-dhparam", "Diffie-Hellman parameters (PEM).", "FILE", _file),
        _Option("--ssl-allow-rc4", "Refused.", refused=_RC4),
    ),
    "TLS of the control API": (
        _Option("--api-ssl-key", f"The key (PEM); {API_PASSPHRASE} holds its passphrase.", "FILE", _file),
        _Option("--api-ssl-cert", "The certificate and its chain (PEM).", "FILE", _file),
        _Option("--api-ssl-ca", "Who signs clients' certificates.", "FILE", _file),
        _Option("--api-ssl-request-cert", "Clients must show a certificate."),
        _Option("--api-ssl-reject-unauthorized", "Goes without saying, as above."),
    ),
    "TLS towards applications": (
        _Option("--client-ssl-key", "The key (PEM) of the certificate that is shown to them.", "FILE", _file),
        _Option("--client-ssl-cert", "That certificate (PEM).", "FILE", _file),
        _Option("--client-ssl-ca", "Who signs theirs; the system's list if not said.", "FILE", _file),
        _Option("--client-ssl-request-cert", "Goes without saying: theirs are always checked."),
        _Option("--client-ssl-reject-unauthorized", "The same."),
        _Option("--insecure", "Do not check applications' certificates."),
    ),
    "Forwarding": (
        _Option("--default-target", "Where requests go that no route takes.", "URL", _target),
        _Option("--error-target", "Asked for pages about errors: URL/CODE?url=ADDRESS.", "URL", _target),
        _Option("--error-path", "A directory with CODE.html and error.html instead.", "DIR", _directory),
        _Option("--no-x-forward", "Add no X-Forwarded- headers."),
        _Option("--no-prepend-path", "Do not put a target's own path before a request's."),
        _Option("--no-include-prefix", "Take the route's path off a request's."),
        _Option("--auto-rewrite", "Lead redirects to a target to this proxy instead."),
        _Option("--protocol-rewrite", "Give redirects to a target this protocol.", "PROTOCOL", _protocol),
        _Option("--change-origin", "Send the target's own name as Host."),
        _Option("--custom-header", "Add 'Name: value' to each request; may be repeated.", "HEADER", _header, many=True),
        _Option("--host-routing", "A route's first segment is a host name."),
        _Option("--trusted-proxies", "Addresses and networks, with commas between, whose forwarded headers are believed; this machine's if not said.",
                "NETS", _networks, many=True),
        _Option("--timeout", "Milliseconds a request may stop for, or wait for its answer.", "MS", _milliseconds),
        _Option("--proxy-timeout", "Milliseconds a target has for its answer's begin.", "MS", _milliseconds),
        _Option("--keep-alive-timeout", "Milliseconds an idle client connection is kept; 75000 if not said.", "MS", _milliseconds),
    ),
    "The process": (
        _Option("--workers", "Processes that share the port; 1 if not said.", "N", _workers),
        _Option("--state-file", "Keep routes over a restart in this file.", "FILE", _place),
        _Option("--pid-file", "Write the process id here, while it runs.", "FILE", _place),
        _Option("--log-level", "debug, info, warn or error.", "LEVEL", _level),
        _Option("--storage-backend", "Refused.", "CLASS", str, refused=_BACKEND),
    ),
}  # fmt: skip
_OPTIONS = tuple(chain.from_iterable(_GROUPS.values()))
_SHARED = frozenset({"--ip", "--port", "--log-level"})
"""BatchHub's own mode has these too."""

_ABOUT = (
    f"The proxy in place of configurable-http-proxy: chosen by {TOKEN} in the environment, and no -f/--config, --state-dir or setting of "
    "BatchHub's (--Class.name=…) on the command line. It takes configurable-http-proxy's options and serves its API; every route is open, "
    "as the servers of JupyterHub ask for themselves who comes. docs/proxy.md says what differs."
)


class _Refuse(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        name = self.option_strings[0]
        parser.error(next(f"{name}: {option.refused}" for option in _OPTIONS if option.name == name))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def options_page() -> str:
    """What ``--help`` says in this mode."""
    return _parser().format_help()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "batchhub proxy", usage="%(prog)s [options]", description=_ABOUT, allow_abbrev=False, argument_default=None
    )
    parser.add_argument("-V", "--version", action="version", version=__version__)
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            given: dict[str, Any] = {"help": option.help}
            if option.refused:
                given |= {"action": _Refuse, "nargs": 1 if option.read else 0}
            elif option.read is None:
                given |= {"action": "store_true"}
            else:
                given |= {"type": option.read, "action": "append" if option.many else "store"}
            if option.value:
                given |= {"metavar": option.value}
            group.add_argument(option.name, **given)
    return parser


def named(words: Sequence[str]) -> bool:
    """Whether one of these words is an option that BatchHub's own mode does not have."""
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    return not flags.isdisjoint({option.name for option in _OPTIONS} - _SHARED)


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """Each option's value, ``None`` or ``False`` where it was not given.

    Raises ConfigError with a sentence that names the option; ``--help`` and ``--version`` exit.
    """
    options, rest = _parser().parse_known_args(list(words))
    if rest:
        flag = rest[0].partition("=")[0]
        names = [option.name for option in _OPTIONS]
        hint = suggest(flag, names) if flag.startswith("-") else "nothing but options is expected"
        raise ConfigError(f"{flag}: there is no such option; {hint} (batchhub proxy --help)")
    return options
