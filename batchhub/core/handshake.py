"""What passes between the hub and ``launch.py`` in a job's directory: names, documents, strict readers, the server's token.

The hub writes ``launch.json`` (nothing secret) and ``secrets.json`` (0600); the job writes ``connection.json`` and ``exit.json``. The
job is run by a person who may write anything into those two, so they are read as hostile input: exactly the fixed fields, their
types, ranges and lengths, or :class:`~batchhub.core.errors.BadInput`. A callback's body is the same ``connection.json``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, NoReturn

from batchhub.core.errors import BadInput, ConfigError

VERSION = 1
JOB_SCRIPT = "job.sh"
LAUNCHER = "launch.py"
LAUNCH = "launch.json"
SECRETS = "secrets.json"
TOKEN = "token"  # noqa: S105 -- a file's name
LOG = "job.log"
CONNECTION = "connection.json"
EXIT = "exit.json"
END = "end.json"

OFFER_HOST, OFFER_PORT = "batchhub", 1
"""What a job asks to have forwarded (``ssh -R``) where it dials in at the proxy: a name and number that lead nowhere else."""

MAX_BYTES = 16_384
"""No document of a job is longer."""
MAX_SECRETS = 1024 * 1024
"""Bytes of ``secrets.json``, which holds what is added to the application's environment in confidence."""
SCHEMES = ("token", "Bearer", "Basic", "")
MAX_SOCKET = 107
"""Bytes in a Unix socket's path: ``sun_path`` of unix(7) has 108 with the final NUL."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_NONCE = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{32,512}")
_CALLBACK = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]{1,255}(?:/[A-Za-z0-9._~%/@-]{0,1000})?")
_URL_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}){0,1023}")
_OFFER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN OPENSSH PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{100,1000}-----END OPENSSH PRIVATE KEY-----\n"
)
_PROGRAM = re.compile(r"(?:/[A-Za-z0-9._+/-]*)?[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
_LAST_TIME = 32_503_680_000  # the year 3000


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the application of one run listens. Either ``port`` or ``socket`` is set.

    ``host`` is the node's own name for itself and ``addresses`` its IP addresses, the likeliest first. ``nonce`` tells one run of
    ``launch.py`` from the next; ``generation`` says which secrets it read. ``time`` is by the node's clock: for people only.
    """

    host: str
    addresses: tuple[str, ...]
    port: int
    socket: str
    pid: int
    nonce: str
    generation: int
    time: datetime


@dataclass(frozen=True, slots=True)
class DialIn:
    """How a job's own ``ssh`` dials in at the proxy: address, the name it signs in under, and the proxy's public key as in a ``.pub`` file.

    ``ssh`` is OpenSSH's client on the node. ``needed``: there is no other way to the application, so it is not started where this one is missing.
    """

    host: str
    port: int
    offer: str
    host_key: str
    ssh: str = "ssh"
    needed: bool = True

    def check(self) -> None:
        """Raises BadInput for what may not stand in an argv or a known_hosts file."""
        if not _HOST.fullmatch(self.host) and not _address_or_none(self.host):
            raise BadInput(f"{self.host[:60]!r} is no name or address that a job could dial the proxy at.")
        if not 1 <= self.port <= 65535:
            raise BadInput(f"{self.port} is no port that a job could dial the proxy at.")
        if not _OFFER.fullmatch(self.offer) or not _PUBLIC_KEY.fullmatch(self.host_key):
            raise BadInput("An offer's name or the proxy's host key is not what it should be.")
        if not _PROGRAM.fullmatch(self.ssh):
            raise BadInput(f"{self.ssh[:60]!r} is neither the name nor the absolute path of an ssh program.")


@dataclass(frozen=True, slots=True)
class BeforeEnd:
    """What the launcher does before the job's time is up.

    ``walltime``: seconds from the job's start, 0 if nobody knows. ``before``: how many seconds earlier, 0 for never. ``command``: a shell line of
    the administrator's. ``signal``: the name of one for the application's process group, empty for none.
    """

    walltime: float = 0
    before: float = 0
    command: str = ""
    signal: str = ""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a run ended, in the launcher's words: an exit code, or the signal that killed the application."""

    code: int | None
    signal: int | None
    word: str
    time: datetime


# ---------------------------------------------------------------- written by the hub


def server_token(key: bytes, server_id: str, generation: int) -> str:
    """The secret of one run of one server: HMAC-SHA256 of its id and generation, 43 URL-safe characters.

    It is derived, so that the database holds no notebook's secret. ``key`` is the hub's, at least 32 bytes, else ConfigError.
    """
    if len(key) < 32:
        raise ConfigError("The key that servers' tokens are derived from must have at least 32 bytes.")
    message = f"batchhub server token\0{server_id}\0{generation}".encode()
    return base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).rstrip(b"=").decode()


def start_token(token: str, nonce: str) -> str:
    """The secret of one start of the application: HMAC-SHA256 of the start's nonce under the run's secret, 43 characters.

    ``launch.py`` computes the same. A job that was requeued starts with a new nonce, so what was sent to its former node by mistake
    opens nothing on the new one, even if nobody had the time to write new secrets.
    """
    return base64.urlsafe_b64encode(hmac.digest(token.encode(), nonce.encode(), hashlib.sha256)).rstrip(b"=").decode()


def launch_document(
    *,
    argv: Sequence[str],
    env: Mapping[str, str | None],
    base_url: str,
    ready_path: str,
    bind: Literal["127.0.0.1", "0.0.0.0"] = "127.0.0.1",  # noqa: S104 -- a type, not a bind
    ports: tuple[int, int] | None = None,
    socket: bool = False,
    guard_path: str = "",
    scheme: str = "token",
    ready_timeout: float = 300,
    callback_url: str = "",
    dial_in: DialIn | None = None,
    time_up: BeforeEnd | None = None,
) -> bytes:
    """``launch.json``: what to start, where it may listen, how to see that it answers. Holds no secret.

    ``argv`` and ``env`` may hold ``{port} {ip} {socket} {base_url} {token_file} {job_dir}``; only ``env`` may hold ``{token}``, as other
    users read argv with ps(1). An ``env`` value of ``None`` removes the variable. ``ports`` is an inclusive range; without one the
    kernel chooses. ``ready_path`` is asked until it answers with a status below 500. ``guard_path``, if any, must refuse a request
    without the token and take one with it; ``scheme`` says how it is sent (:func:`authorization`). ``ready_timeout`` is in seconds. With ``dial_in``
    the job offers the application to the proxy by itself. ``time_up`` is what to do before the end of its time. Raises BadInput.
    """
    _check_command(argv, env)
    for what, path in (("base_url", base_url), ("ready_path", ready_path), ("guard_path", guard_path or "/")):
        if not _URL_PATH.fullmatch(path):
            raise BadInput(f"{what} {path[:60]!r} must be the path of a URL, beginning with '/'.")
    if bind not in {"127.0.0.1", "0.0.0.0"}:  # noqa: S104
        raise BadInput(f"bind {bind[:40]!r} must be 127.0.0.1 or 0.0.0.0.")
    if ports is not None and not 1024 <= ports[0] <= ports[1] <= 65535:
        raise BadInput(f"ports {ports} must be a range between 1024 and 65535.")
    if not 1 <= ready_timeout <= 86_400:
        raise BadInput(f"ready_timeout {ready_timeout} must be between 1 and 86400 seconds.")
    if callback_url and not _CALLBACK.fullmatch(callback_url):
        raise BadInput(f"callback_url {callback_url[:60]!r} must be a plain http or https URL, without user or query.")
    authorization(scheme, "")
    if dial_in is not None:
        dial_in.check()
    document = {
        "version": VERSION,
        "argv": list(argv),
        "env": dict(env),
        "bind": bind,
        "ports": list(ports) if ports else None,
        "socket": socket,
        "base_url": base_url,
        "ready_path": ready_path,
        "guard_path": guard_path,
        "scheme": scheme,
        "ready_timeout": ready_timeout,
        "callback_url": callback_url,
        "dial_in": asdict(dial_in) if dial_in is not None else None,
        "time_up": asdict(time_up) if time_up is not None else None,
    }
    return _dump(document)


def secrets_document(
    generation: int, token: str, offer_key: str = "", env: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """``secrets.json``, to be written 0600. ``offer_key`` is the private key, in OpenSSH's format, that the job dials in with.

    ``env`` is set for the application alone, before what ``launch.json`` sets. Raises BadInput (which never holds a secret).
    """
    if not 1 <= generation <= 10**9:
        raise BadInput(f"generation {generation} is not a positive number.")
    if not _SECRET.fullmatch(token):
        raise BadInput("A server's token must be 32 to 512 characters of A-Z, a-z, 0-9, '-' and '_'.")
    if offer_key and not _PRIVATE_KEY.fullmatch(offer_key):
        raise BadInput("The key that a job dials in with is not in OpenSSH's format.")
    for name, value in env.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise BadInput(f"The variable {name[:40]!r} cannot be given to an application.")
    document = {"version": VERSION, "generation": generation, "token": token, "offer_key": offer_key, "env": dict(env)}
    return _dump(document, MAX_SECRETS, "The variables that are added to the job")


def end_document(at: datetime) -> bytes:
    """``end.json``: when the job's time is up, if that is not its start and what was asked for. Seconds since 1970."""
    return _dump({"version": VERSION, "end": round(at.timestamp())})


def authorization(scheme: str, token: str) -> str:
    """The Authorization header that an application takes its token in: ``token`` (Jupyter), ``Bearer``, ``Basic``; empty for none.

    ``Basic`` carries the token as the password of a user ``batchhub``. Raises BadInput for another scheme.
    """
    if scheme not in SCHEMES:
        raise BadInput(f"scheme {scheme[:40]!r} must be one of 'token', 'Bearer', 'Basic' or empty.")
    if scheme == "Basic":
        return "Basic " + base64.b64encode(f"batchhub:{token}".encode()).decode()
    return f"{scheme} {token}" if scheme else ""


def _check_command(argv: Sequence[str], env: Mapping[str, str | None]) -> None:
    if not argv or not argv[0]:
        raise BadInput("An application needs a command to start.")
    for word in argv:
        _plain("an application's command", word)
        if "{token}" in word:
            raise BadInput(
                "{token} may not stand in an application's command: other users read it there. Use its environment."
            )
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name[:40]!r} is not the name of an environment variable.")
        _plain(f"environment variable {name}", value or "")


def _plain(what: str, value: str) -> None:
    if any(c < " " and c not in "\n\t" for c in value) or len(value) > MAX_BYTES:
        raise BadInput(f"{what[:80]} holds a control character or is too long.")


def _dump(
    document: Mapping[str, object],
    limit: int = 4 * MAX_BYTES,
    what: str = "An application's command and environment",
) -> bytes:
    data = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    if len(data) > limit:
        raise BadInput(f"{what} are too long together ({limit // 1024} KiB as JSON).")
    return data


# ---------------------------------------------------------------- read by the hub


def read_connection(data: bytes) -> Connection:
    """Read ``connection.json`` or a callback's body. Raises BadInput."""
    fields = ("version", "host", "addresses", "port", "socket", "pid", "nonce", "generation", "time")
    found = load_document("connection.json", data, fields)
    host = _text("host", found["host"], 254)
    if not _HOST.fullmatch(host):
        raise BadInput("connection.json: host is not a host name.")
    addresses = found["addresses"]
    if not isinstance(addresses, list) or len(addresses) > 32:
        raise BadInput("connection.json: addresses must be a list of at most 32.")
    port = _number("port", found["port"], 0, 65535)
    socket = _text("socket", found["socket"], MAX_SOCKET)
    if bool(port) == bool(socket):
        raise BadInput("connection.json: exactly one of port and socket must be set.")
    if socket and (not socket.startswith("/") or ".." in socket.split("/")):
        raise BadInput("connection.json: socket must be an absolute path.")
    nonce = _text("nonce", found["nonce"], 32)
    if not _NONCE.fullmatch(nonce):
        raise BadInput("connection.json: nonce must be 32 hexadecimal digits.")
    return Connection(
        host=host,
        addresses=tuple(_address(address) for address in addresses),
        port=port,
        socket=socket,
        pid=_number("pid", found["pid"], 1, 2**31 - 1),
        nonce=nonce,
        generation=_number("generation", found["generation"], 1, 10**9),
        time=_time(found["time"]),
    )


def read_exit(data: bytes) -> ExitRecord:
    """Read ``exit.json``. Raises BadInput."""
    found = load_document("exit.json", data, ("version", "code", "signal", "word", "time"))
    code, signal = found["code"], found["signal"]
    return ExitRecord(
        code=None if code is None else _number("code", code, 0, 255),
        signal=None if signal is None else _number("signal", signal, 1, 64),
        word=_text("word", found["word"], 500),
        time=_time(found["time"]),
    )


def load_document(name: str, data: bytes, fields: Sequence[str]) -> dict[str, object]:
    """A document of a job's directory: an object of exactly these fields, of our version, each once. Raises BadInput."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name} is longer than {MAX_BYTES} bytes.")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not the JSON that BatchHub writes.") from error
    if not isinstance(found, dict) or set(found) != set(fields):
        raise BadInput(f"{name} must hold exactly {', '.join(fields)}.")
    if type(found["version"]) is not int or found["version"] != VERSION:
        raise BadInput(f"{name} is of a version this hub does not read.")
    return found


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _text(what: str, value: object, limit: int) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value.encode("utf-8", "replace")) > limit:
        raise BadInput(f"{what} must be one line of text of at most {limit} bytes.")
    return value


def _number(what: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise BadInput(f"{what} must be a whole number from {low} to {high}.")
    return value


def _address(value: object) -> str:
    text = _text("an address", value, 45)
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is not an IP address.") from error
    if address.is_multicast or address.is_unspecified or "%" in text:
        raise BadInput(f"{text!r} is not an address one can dial.")
    return str(address)


def _address_or_none(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _time(value: object) -> datetime:
    if type(value) not in {int, float}:
        raise BadInput("time must be seconds since 1970.")
    assert isinstance(value, int | float)
    if not math.isfinite(value) or not 0 < value < _LAST_TIME:
        raise BadInput("time must be seconds since 1970.")
    return datetime.fromtimestamp(value, UTC)
