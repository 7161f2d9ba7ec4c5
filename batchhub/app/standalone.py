"""``batchhub proxy`` in place of configurable-http-proxy: when it is that, and the settings that its command line and environment make.

What each option does, and what differs and why, is in ``docs/proxy.md``.
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from batchhub.app.proxying import ProxyPlan
from batchhub.app.site import Site
from batchhub.app.standalone_options import API_PASSPHRASE, PASSPHRASE, TOKEN, named, read_options
from batchhub.core.errors import ConfigError
from batchhub.proxy.forward import Forwarding
from batchhub.proxy.run import check_certificates
from batchhub.proxy.settings import ErrorPages, Limits, Metrics, ProxySettings, Redirect
from batchhub.proxy.tls import ClientTLS, ServerTLS

LOOPBACK = ("127.0.0.0/8", "::1")
"""Believed if no ``--trusted-proxies`` is given: nginx beside JupyterHub works without it being named, and a stranger's word counts for nothing."""


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


def standalone_chosen(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether these words after ``batchhub proxy`` mean this mode."""
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    if any(flag in {"--config", "--state-dir"} or flag.startswith("-f") or "." in flag for flag in flags):
        return False
    return bool(environ.get(TOKEN)) or named(words)


def read_standalone(words: Sequence[str], environ: Mapping[str, str]) -> Standalone:
    """Read the command line. Raises ConfigError with a sentence that names the option; ``--help`` and ``--version`` exit."""
    options = read_options(words)
    settings = _settings(options, environ)
    return Standalone(
        ProxyPlan(settings, Site((), (), {}, ()), hub_url=""), options.log_level or "info", options.pid_file
    )


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
        trusted_proxies=LOOPBACK if options.trusted_proxies is None else tuple(chain(*options.trusted_proxies)),
        access_log=options.log_level == "debug",
        standalone=True,
        forwarding=_forwarding(options),
        error_pages=ErrorPages(options.error_target or "", options.error_path),
        redirect=_redirect(options, port),
        metrics=_metrics(options),
        workers=options.workers or 1,
        limits=_limits(options),
    )
    settings.check()
    check_certificates(settings)
    return settings


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
