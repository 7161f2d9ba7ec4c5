# One stdlib-only file that old compute nodes run with Python 3.6, hence:
# ruff: noqa: PLC0415, PTH100, PTH101, PTH104, PTH108, PTH116, PTH118, PTH120, PTH123, SIM105, T201, TID251, UP006, UP035, UP045
"""Starts one application inside a batch job and says where it listens. Copied into each job's directory; needs nothing else.

Read: ``launch.json`` and ``secrets.json`` beside this file, later ``end.json``. Written: ``token``, ``connection.json``, ``exit.json``, for the time of a
reverse tunnel ``offer_key`` and ``known_hosts``, each 0600 and in one step. The token stands in files and in the application's environment,
never in an argv, a log or a script.

* The port is chosen and *held*: a bound, silent socket keeps it while the application binds it too, which Linux allows when both
  set SO_REUSEADDR and the holder does not listen. From the third try on it is let go first, for applications that do not set it.
* Nothing is sent to a listener before /proc/net says that it belongs to our user: on a shared node another user may be quicker.
* ``guard_path`` must refuse strangers and take the token: a notebook that a user's own settings opened to everybody is stopped.
* SIGTERM, SIGINT and SIGHUP end the application (SIGTERM to its process group, SIGKILL after GRACE). SIGUSR1, SIGUSR2 and SIGXCPU are
  warnings from schedulers: an application that handles them gets them, the others are not killed by them; and they bring forward what is to be done
  before the end.
* Before the job's time is up it says so in the log and does what its profile asks for: a command that saves, a signal to the application. The end
  is the scheduler's where that is told, else the start and what was asked for, else what the hub writes into ``end.json``, which goes before.
* Where the proxy cannot come to the node, ``dial_in`` has the node's own ``ssh`` go to the proxy and offer the application there, and again when
  that connection is lost, for as long as the application lives.
* A requeued job starts over: what an earlier run left is removed first, and an old run never removes what a newer one wrote.
"""

import base64
import ctypes
import errno
import fcntl
import hashlib
import hmac
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, NoReturn, Optional, Set, Tuple

VERSION = 1
GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL."""
TRIES = 5
"""Ports tried before giving up."""
FAST, SLOW = 0.05, 0.25
"""Seconds between two looks at an application that does not answer yet: in its first ten seconds, and later."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WARNING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
IN_USE = re.compile(
    rb"EADDRINUSE|address (?:is )?already in use|port \S+ is (?:already )?(?:in use|not available)|errno 98",
    re.IGNORECASE,
)
PLACES = re.compile(r"\{(port|ip|socket|base_url|token_file|job_dir|token)\}")
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]*")
"""What ``ssh -R`` takes for a socket's path without reading anything into it."""
NO_REASON = ("Transferred:", "Bytes per second:", "Authenticated to ", "Authenticating to ", "Disconnected from ")
"""Lines of ssh's that do not say why it ended."""
REDIAL = (1.0, 30.0)
"""Seconds before the proxy is dialled again: at first, and at most. Jobs must not all come at once, so each takes half to all of it."""
LOOK_AGAIN = 600.0
"""Seconds between two looks for an end that the hub has written. It writes twenty minutes before either end (control/walltime.py)."""
SAME_END = 120.0
"""Two ends that differ by fewer seconds are one."""
SHORT_JOB = 5
"""What is done before the end begins in the last fifth of the job's time at the earliest."""
LAST_SECONDS = 10.0
"""So long before the end a command that saves is ended."""
MAX_SOCKET = 107
MAX_SECRETS = 1048576
"""Bytes of secrets.json: it may hold variables for the application alone."""
PR_SET_PDEATHSIG = 1


class Problem(Exception):
    """Why the application cannot be started or used: a sentence for the person."""


class Collision(Exception):
    """Somebody else has the port."""


def say(text: str) -> None:
    """A line in the job's log."""
    print("batchhub: " + text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- files


def check_directory(directory: str) -> None:
    """Raise Problem unless the directory is ours and nobody else may write in it."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Problem("the job directory does not belong to the user that runs the job")
    if found.st_mode & 0o022:
        raise Problem(f"the job directory may be written by others (mode {found.st_mode & 0o777:o})")


def read_document(directory: str, name: str, secret: bool = False, limit: int = 65536) -> Dict[str, Any]:
    """Read one of the hub's files; a secret one must be private."""
    try:
        fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(f"{name} cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise Problem(name + " is not a file of the user that runs the job")
        if secret and found.st_mode & 0o077:
            raise Problem(f"{name} may be read by others (mode {found.st_mode & 0o777:o})")
        data = file.read(limit + 1)
    try:
        document = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise Problem(name + " is not JSON") from error
    if len(data) > limit or not isinstance(document, dict) or document.get("version") != VERSION:
        raise Problem(name + " is not what this launcher reads")
    return document


def write_file(directory: str, name: str, data: bytes) -> None:
    """Write in one step; the file never exists with a wider mode than 0600."""
    fd, path = tempfile.mkstemp(prefix="." + name, dir=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, os.path.join(directory, name))
    except BaseException:
        remove(path)
        raise


def write_document(directory: str, name: str, document: Dict[str, Any]) -> None:
    """Write JSON in one step."""
    write_file(directory, name, json.dumps(document).encode("ascii") + b"\n")


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            say(f"{path} cannot be removed: {error.strerror}")


# ---------------------------------------------------------------- network


def listeners(port: int) -> Set[int]:
    """The users who listen on a TCP port of this machine, on any address, from /proc/net (proc(5): st 0A is LISTEN)."""
    wanted, uids = f":{port:04X}", set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name) as table:
                for line in table:
                    cells = line.split()
                    if len(cells) > 7 and cells[3] == "0A" and cells[1].endswith(wanted):
                        uids.add(int(cells[7]))
        except OSError:
            continue
    return uids


def hold_port(bind: str, ports: Optional[List[int]], avoid: Set[int]) -> socket.socket:
    """Bind a free port of the range (or the kernel's choice) and keep it, without listening."""
    if ports:
        span = [port for port in range(ports[0], ports[1] + 1) if port not in avoid]
        random.shuffle(span)
    else:
        span = [0] * 20
    for port in span:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((bind, port))
        except OSError:
            held.close()
            continue
        chosen = held.getsockname()[1]
        if chosen not in avoid and not listeners(chosen):
            return held
        held.close()
    raise Problem(
        "no free port on {} in {}".format(
            socket.gethostname(), "{}-{}".format(*ports) if ports else "the system's range"
        )
    )


def port_is_taken(bind: str, port: int) -> bool:
    """Whether a listener keeps us from the port now."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((bind, port))
    except OSError:
        return True
    finally:
        probe.close()
    return bool(listeners(port))


def socket_path(directory: str) -> Tuple[str, str]:
    """A place for a Unix socket, and the directory to remove afterwards (or empty).

    The job's own directory, unless the path is too long or too odd, or its file system takes no sockets (some shared ones do not).
    """
    path = os.path.join(directory, "app.sock")
    if len(os.fsencode(path)) <= MAX_SOCKET and PLAIN_PATH.fullmatch(path):
        remove(path)
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            probe.bind(path)
        except OSError:
            pass
        else:
            remove(path)
            return path, ""
        finally:
            probe.close()
    made = tempfile.mkdtemp(prefix="bh-", dir="/tmp")  # mkdtemp makes it 0700 and new
    return os.path.join(made, "app.sock"), made


def own_addresses() -> List[str]:
    """Addresses of this machine, the one its name stands for first; no loopback, no bridges of containers."""
    found = []  # type: List[str]
    try:
        found.extend(
            str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
        )
    except OSError:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            if name == "lo" or name.startswith(("docker", "virbr", "veth", "br-", "cni", "podman")):
                continue
            try:  # SIOCGIFADDR of netdevice(7)
                answer = fcntl.ioctl(asker.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    try:
        with open("/proc/net/if_inet6") as table:
            for line in table:
                cells = line.split()
                if cells[3] == "00":  # scope: global
                    found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(cells[0])))
    except OSError:
        pass
    kept = [a for a in dict.fromkeys(found) if not a.startswith(("127.", "fe80:")) and "%" not in a and a != "::1"]
    return kept[:16]


def credentials(scheme: str, token: str) -> str:
    """The value of an Authorization header."""
    if scheme == "Basic":
        return "Basic " + base64.b64encode(("batchhub:" + token).encode("ascii")).decode("ascii")
    return scheme + " " + token


# Python's HTTP client takes as long to load as all the rest of this file: it is imported once the application is starting, beside it.


def ask_once(path: str, headers: Dict[str, str], port: int, unix: str = "") -> Optional[int]:
    """The status of one GET, to a port of 127.0.0.1 or a Unix socket; or None."""
    from http.client import HTTPConnection, HTTPException

    link = HTTPConnection("127.0.0.1" if not unix else "localhost", port or None, timeout=5)
    try:
        if unix:
            link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.sock.settimeout(5)
            link.sock.connect(unix)
        link.request("GET", path, headers=headers)
        return link.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        link.close()


def tell_hub(url: str, body: bytes, token: str) -> None:
    """Try to tell the hub, three times, not for long; it reads connection.json anyway."""
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """The token is for one address only."""

        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
    headers = {"Authorization": "token " + token, "Content-Type": "application/json"}
    for wait in (0, 1, 3):
        time.sleep(wait)
        try:
            opener.open(urllib.request.Request(url, body, headers), timeout=5).close()  # noqa: S310 -- http(s), the hub says
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                say(f"the hub answered {error.code} to our call; it will read connection.json")
                return
        except (OSError, ValueError, http.client.HTTPException):
            continue
    say("the hub cannot be called from this node; it will read connection.json")


# ---------------------------------------------------------------- dialling in


class DialIn:
    """The node's own ssh, which offers the application to the proxy. Changes are logged once, not each try."""

    def __init__(self, directory: str, wanted: Dict[str, Any], key: str) -> None:
        self.directory = directory
        self.wanted = wanted
        self.program = shutil.which(str(wanted["ssh"])) or ""
        self.target = ""
        self.child = None  # type: Optional[subprocess.Popen[bytes]]
        self.fd = -1
        self.due = 0.0
        self.pause = REDIAL[0]
        self.said = b""
        self.last = ""
        for name, text in (("offer_key", key), ("known_hosts", "batchhub {}\n".format(wanted["host_key"]))):
            write_file(directory, name, text.encode("ascii"))

    def argv(self) -> List[str]:
        """Nothing secret; file names are relative, so that ssh reads nothing into them."""
        argv = [self.program, "-N", "-T", "-a", "-x", "-F", "/dev/null"]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityFile=offer_key",
            "PreferredAuthentications=publickey",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlias=batchhub",
            "HostKeyAlgorithms=ssh-ed25519",
            "CheckHostIP=no",
            "ExitOnForwardFailure=yes",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=3",
            "ConnectTimeout=10",
            "LogLevel=VERBOSE",
        ):
            argv += ["-o", option]
        offer, port = str(self.wanted["offer"]), str(self.wanted["port"])
        return [*argv, "-l", offer, "-p", port, "-R", "batchhub:1:" + self.target, str(self.wanted["host"])]

    def start(self, target: str) -> None:
        """Offer this place: ``127.0.0.1:PORT``, or a Unix socket's path."""
        self.target = target
        if self.program:
            self.dial()
        else:
            say("{}: no such program here, so the proxy cannot be dialled".format(self.wanted["ssh"]))

    def dial(self) -> None:
        """One try."""
        # What a module or an environment sets for its own programs often breaks the system's ssh.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "SSH_"))}
        env["LC_ALL"] = "C"
        self.said = b""
        try:
            self.child = subprocess.Popen(
                self.argv(),
                env=env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                preexec_fn=prepare_child(),  # noqa: PLW1509
            )
        except OSError as error:
            self.failed(f"{self.program}: {error.strerror}")
            return
        assert self.child.stderr is not None
        self.fd = self.child.stderr.fileno()
        os.set_blocking(self.fd, False)

    def look(self) -> float:
        """Look after it; the seconds until the next look is due, at the latest."""
        if self.child is not None:
            self.read()
            if self.child.poll() is None:
                return 30.0
            self.read()
            self.let_go()
            lines = [line.strip() for line in self.said.decode("utf-8", "replace").splitlines() if line.strip()]
            kept = [line for line in lines if not line.startswith(NO_REASON)]
            self.failed(kept[-1][:200] if kept else "ssh ended without a word")
        if not self.target or not self.program:
            return 30.0
        left = self.due - time.monotonic()
        if left > 0:
            return left
        self.dial()
        return 30.0

    def read(self) -> None:
        """What ssh has said so far."""
        try:
            data = os.read(self.fd, 4096)
        except OSError:
            return
        self.said = (self.said + data)[-4096:]
        if b"Authenticated to " in data:
            self.pause = REDIAL[0]
            self.tell("the proxy at {host}:{port} is dialled in to".format(**self.wanted))

    def failed(self, why: str) -> None:
        """Try again later, longer each time."""
        self.tell(
            "the proxy at {}:{} is not connected, this is tried again: {}".format(
                self.wanted["host"], self.wanted["port"], why
            )
        )
        self.due = time.monotonic() + self.pause * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter, not a secret
        self.pause = min(2 * self.pause, REDIAL[1])

    def tell(self, words: str) -> None:
        """Say it, unless it was the last thing said."""
        if words != self.last:
            say(words)
            self.last = words

    def let_go(self) -> None:
        """Of a child that has ended."""
        if self.child is not None and self.child.stderr is not None:
            self.child.stderr.close()
        self.child, self.fd = None, -1

    def stop(self) -> None:
        """Hang up."""
        self.target = ""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.let_go()


# ---------------------------------------------------------------- before the end


class LastMinutes:
    """What is done before the job's time is up. At most once for each end; a later one, after an extension, is another."""

    def __init__(self, run: "Run", wanted: Dict[str, Any]) -> None:
        self.run = run
        self.command = str(wanted.get("command") or "")
        self.signal = str(wanted.get("signal") or "")
        walltime = float(wanted.get("walltime") or 0)
        self.before = float(wanted.get("before") or 0)
        if walltime:
            self.before = min(self.before, walltime / SHORT_JOB)
        self.end = first_end(walltime)
        self.acted_for = None  # type: Optional[float]
        self.warned = 0
        self.look_at = time.time() + LOOK_AGAIN
        self.child = None  # type: Optional[subprocess.Popen[bytes]]
        self.kill_at = 0.0

    def look(self) -> float:
        """Do what is due; the seconds until the next look is, at the latest."""
        self.watch()
        now = time.time()
        if now >= min(self.look_at, self.due()):
            self.look_at = now + LOOK_AGAIN
            self.read(now)
        if self.warned or now >= self.due():
            self.act(now)
        return max(0.05, min(30.0, self.due() - now, self.look_at - now, 1.0 if self.child is not None else 30.0))

    def due(self) -> float:
        """When it is time; never if nobody knows the end, or it was done for this one."""
        done = self.acted_for is not None and self.end <= self.acted_for + SAME_END
        return self.end - self.before if self.end and self.before and not done else float("inf")

    def read(self, now: float) -> None:
        """Take over the end that the hub wrote, if it did."""
        if not os.path.lexists(self.run.path("end.json")):
            return
        try:
            end = read_document(self.run.directory, "end.json").get("end")
        except Problem as problem:
            say(str(problem))
            return
        if not isinstance(end, (int, float)) or isinstance(end, bool) or not 0 < end - now < 366 * 86400:
            return
        if self.end and abs(end - self.end) > SAME_END:
            say(f"the job's time is up at {clock(end)} now, not at {clock(self.end)}")
        self.end = float(end)

    def act(self, now: float) -> None:
        """Say that the end is near, save, signal."""
        number, self.warned = self.warned, 0
        if self.acted_for is not None and self.end <= self.acted_for + SAME_END:
            return
        self.acted_for = self.end
        left = max(0.0, self.end - now) if self.end else 0.0
        text = (
            f"the job's time is up at {clock(self.end)}, in {left:.0f} seconds" if self.end else "the job's end is near"
        )
        say(text + (f"; the scheduler sent {signal.Signals(number).name}" if number else ""))
        if self.command and self.child is None:
            self.save(left)
        if self.signal:
            say(f"the application is sent SIG{self.signal}, as its profile asks")
            self.run.to_group(getattr(signal, "SIG" + self.signal))

    def save(self, left: float) -> None:
        """Start the command that saves; a shell like the job's, so that functions such as ``module`` are there."""
        shell = shutil.which("bash") or "/bin/sh"
        env = dict(os.environ)
        child = self.run.child
        env.update(
            BATCHHUB_JOB_DIR=self.run.directory,
            BATCHHUB_APP_PID=str(child.pid if child is not None else 0),
            BATCHHUB_APP_PORT=str(self.run.port),
            BATCHHUB_BASE_URL=str(self.run.launch["base_url"]),
            BATCHHUB_TOKEN_FILE=self.run.path("token"),
            BATCHHUB_SECONDS_LEFT=str(int(left)),
        )
        self.kill_at = time.monotonic() + max(5.0, (left or self.before) - LAST_SECONDS)
        try:
            self.child = subprocess.Popen(
                [shell, "-c", self.command],
                env=env,
                stdin=subprocess.DEVNULL,
                preexec_fn=prepare_child(),  # noqa: PLW1509
            )
            say("the command that saves has begun")
        except OSError as error:
            say(f"the command that saves cannot be started: {error.strerror}")

    def watch(self) -> None:
        """Look after the command that saves."""
        if self.child is None:
            return
        code = self.child.poll()
        if code is not None:
            say(f"the command that saves ended with {code}" if code else "the command that saves has ended well")
            self.child = None
        elif time.monotonic() >= self.kill_at:
            say("the command that saves takes too long and is ended")
            self.stop()

    def stop(self) -> None:
        """End the command that saves."""
        if self.child is not None:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except OSError:
                pass
            self.child.wait()
            self.child = None


def first_end(walltime: float) -> float:
    """When the job's time is up, in seconds since 1970, as far as the job itself can know; 0 if it cannot."""
    now = time.time()
    told, began = os.environ.get("SLURM_JOB_END_TIME", ""), os.environ.get("BATCHHUB_JOB_STARTED", "")
    if told.isdigit() and 0 < int(told) - now < 366 * 86400:
        return float(told)
    start = float(began) if began.isdigit() and 0 <= now - int(began) < 86400 else now
    return start + walltime if walltime else 0.0


def clock(moment: float) -> str:
    """A time for the job's log."""
    return time.strftime("%H:%M:%S %Z", time.localtime(moment))


# ---------------------------------------------------------------- the run


class Run:
    """One start of the application, from the documents to the exit record."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.nonce = os.urandom(16).hex()
        self.stopping = 0
        self.kill_at = 0.0
        self.child = None  # type: Optional[subprocess.Popen[bytes]]
        self.port = 0
        self.socket = ""
        self.own_directory = ""
        self.pipe = (-1, -1)
        self.answered = False
        self.addresses = []  # type: List[str]
        self.launch = {}  # type: Dict[str, Any]
        self.generation = 0
        self.run_token = ""
        self.token = ""
        self.confided = {}  # type: Dict[str, str]
        self.dial_in = None  # type: Optional[DialIn]
        self.last = None  # type: Optional[LastMinutes]
        self.held = None  # type: Optional[socket.socket]
        self.log_from = 0
        self.began = 0.0
        self.resolver = threading.Thread(target=lambda: self.addresses.extend(own_addresses()), daemon=True)

    def path(self, name: str) -> str:
        """A file of ours."""
        return os.path.join(self.directory, name)

    def main(self) -> int:
        """Do it all; the exit status is the application's."""
        os.umask(0o077)
        self.watch_signals()
        code, number, word = 1, 0, ""
        try:
            check_directory(self.directory)
            for name in ("connection.json", "exit.json", "end.json"):
                remove(self.path(name))
            self.load()
            code, number, word = self.serve()
        except Problem as problem:
            word = str(problem)
        if self.stopping:
            word = f"stopped by {signal.Signals(self.stopping).name}"
        say(word)
        self.leave(code, number, word)
        return 128 + number if number else code

    def load(self) -> None:
        """Read the documents and hand the token on in a file."""
        self.launch = read_document(self.directory, "launch.json")
        secrets = read_document(self.directory, "secrets.json", secret=True, limit=MAX_SECRETS)
        self.generation, self.run_token = int(secrets["generation"]), str(secrets["token"])
        # Each start has a secret of its own, which the hub derives in the same way (core/handshake.py, start_token).
        mark = hmac.new(self.run_token.encode("ascii"), self.nonce.encode("ascii"), hashlib.sha256).digest()
        self.token = base64.urlsafe_b64encode(mark).rstrip(b"=").decode("ascii")
        write_file(self.directory, "token", self.token.encode("ascii"))  # no newline: Jupyter does not strip one
        self.confided = {str(name): str(value) for name, value in (secrets.get("env") or {}).items()}
        wanted = self.launch.get("dial_in")
        if wanted:
            self.dial_in = DialIn(self.directory, wanted, str(secrets["offer_key"]))
            if wanted["needed"] and not self.dial_in.program:
                raise Problem(
                    "{} is not installed here, and there is no other way to the application".format(wanted["ssh"])
                )
        if self.launch.get("time_up"):
            self.last = LastMinutes(self, self.launch["time_up"])
        self.resolver.start()  # name services can be slow

    def serve(self) -> Tuple[int, int, str]:
        """Start, again on another port if need be, until it answers; then wait for its end."""
        avoid = set()  # type: Set[int]
        for attempt in range(TRIES):
            try:
                self.start(attempt, avoid)
                if self.until_ready():
                    self.publish()
                    self.until_ended()
                return self.ended()
            except Collision:
                avoid.add(self.port)
                say(f"port {self.port} was taken by somebody else; trying another")
                self.end_now()
        raise Problem(f"no port could be had in {TRIES} tries")

    # ------------------------------------------------------------ signals

    def watch_signals(self) -> None:
        """Let every signal of interest wake the loop; SIGINT may have been ignored by the shell, that is undone here."""
        read, write = os.pipe()
        for fd in (read, write):
            os.set_blocking(fd, False)
        self.pipe = (read, write)
        for number in ENDING:
            signal.signal(number, self.on_ending)
        for number in WARNING:
            signal.signal(number, self.on_warning)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write)

    def on_ending(self, number: int, _frame: Any) -> None:
        """End the application; a second signal changes nothing."""
        if not self.stopping:
            self.stopping = number
            self.kill_at = time.monotonic() + GRACE
            self.to_group(signal.SIGTERM)
            self.to_group(signal.SIGCONT)

    def on_warning(self, number: int, _frame: Any) -> None:
        """Hand a warning on to an application that has a handler for it (SigCgt of proc(5)); it would kill another.

        Where the profile names a signal, that one is sent instead, by the loop.
        """
        child = self.child
        if self.last is not None:
            self.last.warned = number
            if self.last.signal:
                return
        if child is None or child.poll() is not None:
            return
        try:
            with open(f"/proc/{child.pid}/status") as status:
                caught = [line.split()[1] for line in status if line.startswith("SigCgt:")]
            if caught and int(caught[0], 16) >> (number - 1) & 1:
                os.kill(child.pid, number)
        except OSError:
            pass

    def to_group(self, number: int) -> None:
        """Signal the application and everything in its process group."""
        if self.child is not None:
            try:
                os.killpg(self.child.pid, number)
            except OSError:
                pass

    def wait(self, seconds: float) -> None:
        """Wait for a signal (SIGCHLD too), at most so long; kill what ignored SIGTERM."""
        if self.kill_at:
            seconds = max(0.0, min(seconds, self.kill_at - time.monotonic()))
        if self.last is not None and not self.stopping:
            seconds = min(seconds, self.last.look())
        watched = [self.pipe[0]]
        if self.dial_in is not None:
            seconds = min(seconds, self.dial_in.look())
            watched += [self.dial_in.fd] if self.dial_in.fd >= 0 else []
        if self.pipe[0] in select.select(watched, [], [], seconds)[0]:
            try:
                while os.read(self.pipe[0], 512):
                    pass
            except BlockingIOError:
                pass
        if self.kill_at and time.monotonic() >= self.kill_at:
            self.kill_at = time.monotonic() + GRACE
            self.to_group(signal.SIGKILL)

    # ------------------------------------------------------------ start

    def start(self, attempt: int, avoid: Set[int]) -> None:
        """Choose where to listen and start the application there."""
        held = None  # type: Optional[socket.socket]
        bind = str(self.launch["bind"])
        if self.launch["socket"]:
            self.socket, self.own_directory = socket_path(self.directory)
        else:
            held = hold_port(bind, self.launch["ports"], avoid)
            self.port = held.getsockname()[1]
        argv = [self.fill(word, False) for word in self.launch["argv"]]
        env = dict(os.environ, **self.confided)
        for name, value in self.launch["env"].items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = self.fill(value, True)
        if held is not None and attempt >= 2:
            held.close()
        self.log_from = self.log_size()
        self.held = held
        self.began = time.monotonic()
        try:
            prepare = prepare_child()
            self.child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, preexec_fn=prepare)  # noqa: PLW1509
        except OSError as error:
            if error.filename not in (None, argv[0]):
                raise Problem(f"{error.filename}: {error.strerror}") from error
            hint = "is it in the environment that was chosen? PATH is " + env.get("PATH", "")
            raise Problem(f"{argv[0]}: {error.strerror}; {hint}"[:480]) from error
        if self.stopping:
            self.to_group(signal.SIGTERM)

    def fill(self, text: str, in_env: bool) -> str:
        """Put the places' values in."""

        def value(found: "re.Match[str]") -> str:
            name = found.group(1)
            if name == "token" and not in_env:
                raise Problem("{token} may not stand in a command: other users read it there")
            if name in ("port", "ip") and self.launch["socket"]:
                raise Problem("the application is given a socket, but its command asks for {" + name + "}")
            if name == "socket" and not self.launch["socket"]:
                raise Problem("the application is given a port, but its command asks for {socket}")
            return {
                "port": str(self.port),
                "ip": str(self.launch["bind"]),
                "socket": self.socket,
                "base_url": str(self.launch["base_url"]),
                "token_file": self.path("token"),
                "job_dir": self.directory,
                "token": self.token,
            }[name]

        return PLACES.sub(value, text)

    # ------------------------------------------------------------ ready

    def until_ready(self) -> bool:
        """Wait until it answers. False: it ended, or is to end. Raises Collision, Problem."""
        limit = self.began + float(self.launch["ready_timeout"])
        while not self.stopping:
            if self.child is not None and self.child.poll() is not None:
                self.check_collision()
                return False
            if self.is_ours() and self.answers():
                return True
            if time.monotonic() > limit:
                self.end_now()
                raise Problem("the application did not answer within {:g} seconds".format(self.launch["ready_timeout"]))
            self.wait(FAST if time.monotonic() - self.began < 10 else SLOW)
        self.until_ended()
        return False

    def is_ours(self) -> bool:
        """Whether something listens, and it is our user's. Raises Collision for another's."""
        if self.launch["socket"]:
            try:
                found = os.lstat(self.socket)
            except OSError:
                return False
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
                return False
            if found.st_mode & 0o177:
                os.chmod(self.socket, 0o600)
            return True
        uids = listeners(self.port)
        if uids - {os.geteuid()}:
            raise Collision
        return bool(uids)

    def answers(self) -> bool:
        """Whether the ready path answers, and the guarded path is guarded. Raises Problem if it is not."""
        status = self.ask(str(self.launch["ready_path"]), True)
        if status is None or status >= 500:
            return False
        guard = str(self.launch.get("guard_path") or "")
        if guard:
            stranger, owner = self.ask(guard, False), self.ask(guard, True)
            if stranger is None or owner is None or owner >= 500:
                return False
            if stranger < 300:
                self.end_now()
                raise Problem(
                    "the application lets anybody in: does a file in ~/.jupyter set an empty token or password?"
                )
            if owner >= 300:
                self.end_now()
                raise Problem("the application does not take its token: does a file in ~/.jupyter set another token?")
        return True

    def ask(self, path: str, with_token: bool) -> Optional[int]:
        """The status of one GET, or None."""
        scheme = str(self.launch.get("scheme") or "")
        headers = {"Authorization": credentials(scheme, self.token)} if with_token and scheme else {}
        return ask_once(path, headers, self.port, self.socket)

    def check_collision(self) -> None:
        """The application ended before it answered: raise Collision if there is evidence that the port was the cause."""
        if self.launch["socket"] or self.stopping:
            return
        if self.held is not None:
            self.held.close()
        if port_is_taken(str(self.launch["bind"]), self.port) or IN_USE.search(self.log_since()):
            raise Collision

    def log_size(self) -> int:
        """How long the job's log is now, if our output goes there."""
        try:
            return os.stat(self.path("job.log")).st_size
        except OSError:
            return 0

    def log_since(self) -> bytes:
        """What was logged since the start, its last 64 KiB."""
        try:
            with open(self.path("job.log"), "rb") as log:
                log.seek(max(self.log_from, self.log_size() - 65536))
                return log.read(65536)
        except OSError:
            return b""

    # ------------------------------------------------------------ publish and end

    def publish(self) -> None:
        """Say where it listens: in the file, and to the hub if that can be called."""
        self.answered = True
        self.resolver.join(1.0)
        if self.held is not None:
            self.held.close()
        if self.dial_in is not None:
            self.dial_in.start(self.socket or f"127.0.0.1:{self.port}")
        document = {
            "version": VERSION,
            "host": socket.gethostname(),
            "addresses": list(self.addresses),
            "port": 0 if self.launch["socket"] else self.port,
            "socket": self.socket,
            "pid": self.child.pid if self.child else 0,
            "nonce": self.nonce,
            "generation": self.generation,
            "time": round(time.time(), 3),
        }
        write_document(self.directory, "connection.json", document)
        say("the application answers on {}".format(self.socket or f"{socket.gethostname()}:{self.port}"))
        url = str(self.launch.get("callback_url") or "")
        if url.startswith(("http://", "https://")):
            body = json.dumps(document).encode("ascii")
            threading.Thread(target=tell_hub, args=(url, body, self.run_token), daemon=True).start()

    def until_ended(self) -> None:
        """Wait for the application's end. A stop is noted at once, should the scheduler's SIGKILL come before ours."""
        noted = False
        while self.child is not None and self.child.poll() is None:
            if self.stopping and not noted:
                noted = True
                self.note(None, self.stopping, f"stopped by {signal.Signals(self.stopping).name}")
            self.wait(30)
        self.to_group(signal.SIGKILL)

    def end_now(self) -> None:
        """End this try: SIGTERM, five seconds, SIGKILL."""
        self.to_group(signal.SIGTERM)
        limit = time.monotonic() + 5
        while self.child is not None and self.child.poll() is None and time.monotonic() < limit:
            self.wait(FAST)
        self.to_group(signal.SIGKILL)
        if self.child is not None:
            self.child.wait()
        if self.held is not None:
            self.held.close()

    def ended(self) -> Tuple[int, int, str]:
        """Exit code, signal and a sentence."""
        status = self.child.wait() if self.child is not None else 1
        when = "" if self.answered else " before it answered"
        if status < 0:
            name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
            return 0, -status, f"application was killed by {name}{when}"
        return status, 0, f"application exited with {status}{when}"

    def newer_run(self) -> bool:
        """Whether another run has written its connection here: then nothing here is ours any more."""
        try:
            return bool(read_document(self.directory, "connection.json")["nonce"] != self.nonce)
        except (Problem, KeyError):
            return False

    def note(self, code: Optional[int], number: int, word: str) -> None:
        """Write exit.json."""
        record = {
            "version": VERSION,
            "code": code,
            "signal": number or None,
            "word": word[:480],
            "time": round(time.time(), 3),
        }
        try:
            write_document(self.directory, "exit.json", record)
        except OSError as error:
            say(f"exit.json cannot be written: {error.strerror}")

    def leave(self, code: int, number: int, word: str) -> None:
        """Record the end and take back what stands for a running application."""
        if self.dial_in is not None:
            self.dial_in.stop()
        if self.last is not None:
            self.last.stop()
        if self.own_directory:
            shutil.rmtree(self.own_directory, ignore_errors=True)
        if self.newer_run():
            return
        self.note(None if number else code, number, word)
        for name in ("connection.json", "token", "app.sock", "offer_key", "known_hosts", "end.json"):
            remove(self.path(name))
        if self.answered and not self.stopping:
            self.forget()

    def forget(self) -> None:
        """The application ended by itself, so its job is not requeued: what the hub confided to it goes. In other cases the hub sees to that."""
        try:
            newest = int(read_document(self.directory, "secrets.json", secret=True, limit=MAX_SECRETS)["generation"])
        except (Problem, KeyError, ValueError):
            return
        if newest == self.generation:
            shutil.rmtree(self.path("files"), ignore_errors=True)
            remove(self.path("secrets.json"))


def prepare_child() -> Any:
    """What to do in the child before the application's program: own process group, plain signals, end with us."""
    try:
        libc = ctypes.CDLL(None)  # type: Any
    except OSError:
        libc = None

    def prepare() -> None:
        os.setpgid(0, 0)
        # A shell starts background commands with these ignored, and what is ignored stays so; a kernel is interrupted by SIGINT.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return prepare


def main() -> NoReturn:
    """Run in this file's directory."""
    sys.exit(Run(os.path.dirname(os.path.abspath(__file__))).main())


if __name__ == "__main__":
    main()
