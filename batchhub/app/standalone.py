"""``batchhub proxy`` in place of configurable-http-proxy: its command line and environment, its defaults, no hub of ours behind it.

What each option does, and what differs and why, is in ``docs/proxy.md``.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from batchhub import __version__
from batchhub.app.proxying import ProxyPlan
from batchhub.app.site import Site
from batchhub.config.tables import suggest
from batchhub.core.errors import BadInput, ConfigError
from batchhub.proxy.forward import Forwarding
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.settings import MAX_WORKERS, ErrorPages, Limits, Metrics, ProxySettings, Redirect
from batchhub.proxy.target import read_target
from batchhub.proxy.tls import ClientTLS, ServerTLS, client_context, server_context

TOKEN = "CONFIGPROXY_AUTH_TOKEN"  # noqa: S105 - the variable's name
PASSPHRASE = "CONFIGPROXY_SSL_KEY_PASSPHRASE"  # noqa: S105 - the variable's name
API_PASSPHRASE = "CONFIGPROXY_API_SSL_KEY_PASSPHRASE"  # noqa: S105 - the variable's name

_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*:\s*([\x20-\x7e\xa0-\xff]*?)\s*")
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}


@dataclass(frozen=True, slots=True)
class Standalone:
    """What the command line asks for: the proxy, and what concerns its process alone."""

    plan: ProxyPlan
    log_level: str
    pid_file: Path | None


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold this process's id in a file, if one is wanted; at the end it is removed, unless it is another's by then. Raises ConfigError."""
    if path is None:
        yield
        return
    own = str(os.getpid())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise ConfigError(f"--pid-file={path} cannot be written: {error.strerror}.") from error
    with os.fdopen(handle, "w") as file:
        file.write(own)
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_text() == own:
                path.unlink()


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
        _Option("--trusted-proxies", "Addresses and networks, with commas between, whose forwarded headers are believed.",
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


def standalone_chosen(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether these words after ``batchhub proxy`` mean this mode."""
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    if any(flag in {"--config", "--state-dir"} or flag.startswith("-f") or "." in flag for flag in flags):
        return False
    return bool(environ.get(TOKEN)) or not flags.isdisjoint({option.name for option in _OPTIONS} - _SHARED)


# ---------------------------------------------------------------- the plan


def read_standalone(words: Sequence[str], environ: Mapping[str, str]) -> Standalone:
    """Read the command line. Raises ConfigError with a sentence that names the option; ``--help`` and ``--version`` exit."""
    options, rest = _parser().parse_known_args(list(words))
    if rest:
        flag = rest[0].partition("=")[0]
        names = [option.name for option in _OPTIONS]
        hint = suggest(flag, names) if flag.startswith("-") else "nothing but options is expected"
        raise ConfigError(f"{flag}: there is no such option; {hint} (batchhub proxy --help)")
    settings = _settings(options, environ)
    return Standalone(
        ProxyPlan(settings, Site((), (), {}, ()), hub_url=""), options.log_level or "info", options.pid_file
    )


def plan_standalone(words: Sequence[str], environ: Mapping[str, str]) -> ProxyPlan:
    """The proxy alone. Raises ConfigError."""
    return read_standalone(words, environ).plan


def _settings(options: argparse.Namespace, environ: Mapping[str, str]) -> ProxySettings:
    token = environ.get(TOKEN, "")
    if not token:
        raise ConfigError(
            f"{TOKEN} is not set. The control API is never open here: whoever reaches it could send everybody's traffic anywhere. "
            f"Make a token with: export {TOKEN}=$(openssl rand -hex 32)"
        )
    if options.error_target and options.error_path:
        raise ConfigError("--error-target and --error-path: only one of them can be given.")
    port = options.port or 8000
    settings = ProxySettings(
        token=token,
        ticket_keys=(secrets.token_bytes(32),),
        state_file=options.state_file,
        default_target=options.default_target or "",
        public_host=options.ip or "",
        public_port=port,
        public_socket=options.socket,
        tls=_server_tls(options, "ssl", environ.get(PASSPHRASE, "")),
        api_host="localhost" if options.api_ip is None else options.api_ip,
        api_port=options.api_port or _next(port),
        api_socket=options.api_socket,
        api_tls=_server_tls(options, "api_ssl", environ.get(API_PASSPHRASE, "")),
        client_tls=_client_tls(options),
        trusted_proxies=tuple(chain.from_iterable(options.trusted_proxies or ())),
        access_log=options.log_level == "debug",
        standalone=True,
        forwarding=_forwarding(options),
        error_pages=ErrorPages(options.error_target or "", options.error_path),
        redirect=_redirect(options, port),
        metrics=_metrics(options),
        workers=options.workers or 1,
        limits=_limits(options),
    )
    _check(settings)
    return settings


def _check(settings: ProxySettings) -> None:
    """Everything that would only show when a process serves. Raises ConfigError."""
    settings.check()
    for tls in (settings.tls, settings.api_tls):
        if tls is not None:
            server_context(tls)
    if settings.client_tls != ClientTLS():
        client_context(settings.client_tls)


def _next(port: int) -> int:
    if port == 65535:
        raise ConfigError("--port=65535 leaves no port after it for the control API; --api-port is needed.")
    return port + 1


def _server_tls(options: argparse.Namespace, kind: str, passphrase: str) -> ServerTLS | None:
    named = vars(options)
    flag = f"--{kind.replace('_', '-')}"
    key, certificate = named[f"{kind}_key"], named[f"{kind}_cert"]
    if (key is None) != (certificate is None):
        raise ConfigError(f"{flag}-key and {flag}-cert: TLS needs both.")
    if key is None:
        for more in ("ca", "request_cert", "reject_unauthorized"):
            if named[f"{kind}_{more}"]:
                raise ConfigError(f"{flag}-{more.replace('_', '-')}: {flag}-key and {flag}-cert are needed with it.")
        return None
    return ServerTLS(
        certificate,
        key,
        passphrase,
        client_authority=named[f"{kind}_ca"],
        client_certificates=named[f"{kind}_request_cert"],
        protocol=options.ssl_protocol or "",
        ciphers=options.ssl_ciphers or "",
        dh_parameters=options.ssl_dhparam,
    )


def _client_tls(options: argparse.Namespace) -> ClientTLS:
    if (options.client_ssl_key is None) != (options.client_ssl_cert is None):
        raise ConfigError("--client-ssl-key and --client-ssl-cert: a certificate needs its key.")
    return ClientTLS(
        options.client_ssl_cert, options.client_ssl_key, options.client_ssl_ca, verify=not options.insecure
    )


def _forwarding(options: argparse.Namespace) -> Forwarding:
    return Forwarding(
        x_forward=not options.no_x_forward,
        prepend_path=not options.no_prepend_path,
        include_prefix=not options.no_include_prefix,
        auto_rewrite=options.auto_rewrite,
        protocol_rewrite=options.protocol_rewrite or "",
        change_origin=options.change_origin,
        custom_headers=tuple({name.lower(): (name, value) for name, value in options.custom_header or ()}.values()),
        host_routing=options.host_routing,
    )


def _redirect(options: argparse.Namespace, port: int) -> Redirect | None:
    if options.redirect_port is None:
        if options.redirect_to is not None:
            raise ConfigError("--redirect-to: --redirect-port is needed with it.")
        return None
    if options.ssl_cert is None:
        raise ConfigError("--redirect-port: a port that sends people on to https needs --ssl-key and --ssl-cert.")
    return Redirect(options.redirect_port, options.redirect_to or (443 if options.socket else port))


def _metrics(options: argparse.Namespace) -> Metrics | None:
    if options.metrics_socket is None and options.metrics_port is None:
        if options.metrics_ip is not None:
            raise ConfigError("--metrics-ip: --metrics-port is needed with it.")
        return None
    return Metrics(options.metrics_ip or "", options.metrics_port or 0, options.metrics_socket)


def _limits(options: argparse.Namespace) -> Limits:
    plain = Limits()
    waits = [seconds for seconds in (options.timeout, options.proxy_timeout) if seconds]
    return Limits(
        keep_alive=options.keep_alive_timeout or plain.keep_alive,
        body_idle=options.timeout or plain.body_idle,
        response_time=min(waits, default=plain.response_time),
        tick=max(
            0.02, min([plain.tick, *(seconds / 4 for seconds in (*waits, options.keep_alive_timeout) if seconds)])
        ),
    )
