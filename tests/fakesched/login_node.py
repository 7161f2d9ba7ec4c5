"""A login node: an SSH server on paramiko, so that asyncssh is never only tested against itself.

    node = LoginNode(keys={"alice": [public_key_line]}, cluster=cluster, dialects=("slurm",)).start()
    ssh -p {node.port} alice@127.0.0.1 squeue
    node.drop(); node.refuse_auth = True; node.stall(); node.close_listener(); node.change_host_key()
    node.counts["sessions"]; node.stop()

As on a cluster, a command runs through the user's login shell (``-c``), and names of compute nodes resolve here only: a direct-tcpip
channel to ``n1:8888`` leads to the loopback address that stands for n1. As root it runs commands as the local account of the user's
name, if there is one; otherwise as whoever runs the test, with a home directory of its own. No SFTP, no shell without a command.
"""

import contextlib
import io
import ipaddress
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN_SUCCESS,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    cMSG_CHANNEL_REQUEST,
)
from paramiko.message import Message

CHUNK = 32768
QUIET = "tests.fakesched.paramiko"
SIGNALS = {number.value: number.name.removeprefix("SIG") for number in signal.Signals}


def new_host_key():
    """An Ed25519 host key."""
    text = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text.decode()))


def _key_bytes(line):
    """The middle of ``ssh-ed25519 AAAA… comment``."""
    text = line.decode() if isinstance(line, bytes) else line
    return text.split()[1]


class _Gate:
    """A socket that can be made to hang."""

    def __init__(self, raw, stalled):
        self._raw = raw
        self._stalled = stalled

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def _wait(self):
        if self._stalled.is_set():
            time.sleep(0.05)
            raise TimeoutError

    def recv(self, size):
        self._wait()
        return self._raw.recv(size)

    def send(self, data):
        self._wait()
        return self._raw.send(data)

    def close(self):
        self._raw.close()


class _Transport(paramiko.Transport):
    """paramiko's, which says nothing more of a channel once it has closed it, as RFC 4254 (5.3) demands.

    paramiko itself lets go of a channel's lock before it sends: data or a window of one thread may then follow another thread's close, and a
    client that has forgotten the channel by then has to end the connection, with everybody's channels in it.
    """

    def __init__(self, raw):
        super().__init__(raw)
        self._shut = set()

    def _send_message(self, data):
        """Called for one channel's message at a time: paramiko holds ``clear_to_send_lock``."""
        text = data.asbytes()
        if MSG_CHANNEL_WINDOW_ADJUST <= text[0] <= MSG_CHANNEL_FAILURE:
            channel = text[
                1:5
            ]  # the client's number; asyncssh and OpenSSH's client count on and use none twice at once
            if channel in self._shut:
                return
            if text[0] == MSG_CHANNEL_CLOSE:
                self._shut.add(channel)
        elif text[0] == MSG_CHANNEL_OPEN_SUCCESS:
            self._shut.discard(text[1:5])
        super()._send_message(data)


class LoginNode:
    """One login node on a loopback port.

    ``keys``: user -> public key lines that may log in (``"*"``: every user); ``passwords``: user -> password. ``cluster`` gives the
    nodes and FAKESCHED_DIR, ``dialects`` the commands on PATH. ``shell`` is everybody's login shell, ``shells`` one user's.
    ``noise`` is what a chatty start-up file prints to stdout before each command. ``forward`` says where direct-tcpip may lead:
    ``"nodes"``, ``"any"`` or ``"none"``; ``blocked`` holds node names refused on top.
    """

    def __init__(
        self,
        *,
        keys=None,
        passwords=None,
        cluster=None,
        dialects=("slurm", "pbs", "lsf"),
        nodes=None,
        shell="/bin/bash",
        shells=None,
        noise="",
        forward="nodes",
        environment=None,
        homes=None,
        host="127.0.0.1",
        port=0,
    ):
        self.keys = {user: {_key_bytes(line) for line in lines} for user, lines in (keys or {}).items()}
        self.passwords = dict(passwords or {})
        self.cluster = cluster
        self.dialects = dialects
        self.nodes = dict(nodes or {}) | (cluster.addresses() if cluster is not None else {})
        self.shell = shell
        self.shells = dict(shells or {})
        self.noise = noise
        self.forward = forward
        self.blocked = set()
        self.environment = dict(environment or {})
        self.refuse_auth = False
        self.refuse_sessions = False
        self.counts = Counter()
        self.commands = []
        self.host, self.port = host, port
        self.host_key = new_host_key()
        self._homes = homes
        self._own_homes = None
        self._stalled = threading.Event()
        self._lock = threading.Lock()
        self._transports = set()
        self._processes = set()
        self._listener = None
        logging.getLogger(QUIET).setLevel(logging.CRITICAL + 1)

    # ------------------------------------------------------------ life

    def start(self):
        if self._homes is None:
            self._homes = self._own_homes = tempfile.mkdtemp(prefix="login-node-")
            os.chmod(self._homes, 0o755)
        self.open_listener()
        return self

    def stop(self):
        self._stalled.clear()
        self.close_listener()
        self.drop()
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            _kill_group(process)
        if self._own_homes:
            shutil.rmtree(self._own_homes, ignore_errors=True)
            self._homes = self._own_homes = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def connections(self):
        """How many connections are open now."""
        with self._lock:
            self._transports = {transport for transport in self._transports if transport.is_active()}
            return len(self._transports)

    @property
    def known_hosts(self):
        """The host key's line for a known_hosts file."""
        return f"[{self.host}]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}\n"

    # ------------------------------------------------------------ faults

    def drop(self):
        """Cut every connection now, without a word."""
        with self._lock:
            transports, self._transports = self._transports, set()
        for transport in transports:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
            transport.close()

    def stall(self, on=True):
        """Keep every connection open and silent, new ones too."""
        if on:
            self._stalled.set()
        else:
            self._stalled.clear()

    def close_listener(self):
        """Refuse new connections; open ones live on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def open_listener(self):
        """Listen, on the same port as before."""
        listener = socket.create_server((self.host, self.port), backlog=128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name=f"login-node-{self.port}", daemon=True).start()

    def change_host_key(self):
        """As after a reinstallation: a new key on the same port, every connection cut."""
        self.close_listener()
        self.drop()
        self.host_key = new_host_key()
        self.open_listener()

    # ------------------------------------------------------------ connections

    def _accept(self, listener):
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            self.counts["connections"] += 1
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(raw,), name="login-node-connection", daemon=True).start()

    def _serve(self, raw):
        transport = None
        try:
            transport = _Transport(_Gate(raw, self._stalled))
            transport.set_log_channel(QUIET)
            transport.banner_timeout = transport.handshake_timeout = 3600
            transport.add_server_key(self.host_key)
            with self._lock:
                self._transports.add(transport)
            server = _Server(self, transport)
            transport.start_server(event=threading.Event(), server=server)
            held = []  # paramiko itself holds channels weakly and closes what nobody refers to
            while transport.is_alive():
                channel = transport.accept(1)
                if channel is not None:
                    held = [one for one in held if not one.closed] + [channel]
                    server.opened(channel)
        except (OSError, EOFError, paramiko.SSHException):
            (transport or raw).close()

    def may(self, user, kind, proof):
        """Whether this proof (a key's base64 text, a password) lets the user in."""
        if self.refuse_auth:
            good = False
        elif kind == "key":
            good = proof in self.keys.get(user, set()) | self.keys.get("*", set())
        else:
            good = self.passwords.get(user) == proof
        self.counts["authentications" if good else "auth_failures"] += 1
        return good

    # ------------------------------------------------------------ compute nodes

    def resolve(self, name):
        """The address behind a name that a direct-tcpip channel asks for; None where it is refused."""
        if self.forward == "none" or name in self.blocked:
            return None
        if name in self.nodes:
            return self.nodes[name]
        short = name.partition(".")[0]
        if short in self.nodes and not name.replace(".", "").isdigit():
            return None if short in self.blocked else self.nodes[short]
        if self.forward == "any" or name in self.nodes.values():
            return name if self.forward == "any" or _is_address(name) else None
        return None

    # ------------------------------------------------------------ commands

    def account(self, user):
        """The local account to run as, or None: as ourselves."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(user)
        except KeyError:
            return None

    def home(self, user):
        """The user's home directory."""
        account = self.account(user)
        if account is not None:
            return account.pw_dir
        path = os.path.join(self._homes, user)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def shell_of(self, user):
        return self.shells.get(user, self.shell)

    def command_environment(self, user, sent):
        """What a non-interactive login finds, with the variables that the client sent and may send."""
        home = self.home(user)
        bins = [self.cluster.bin(dialect) for dialect in self.dialects] if self.cluster is not None else []
        ours = [os.path.dirname(sys.executable)] if self.account(user) is None or user == "root" else []
        path = ":".join([*bins, *ours, "/usr/local/bin", "/usr/bin", "/bin"])
        env = {
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": self.shell_of(user),
            "PATH": path,
            "LANG": "C.UTF-8",
        }
        env["SSH_CONNECTION"] = f"127.0.0.1 0 {self.host} {self.port}"
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        if self.cluster is not None:
            env["FAKESCHED_DIR"] = str(self.cluster.path)
        if self.account(user) is None:
            env["FAKESCHED_USER"] = user
        return env | sent | self.environment

    def spawn(self, user, command, sent):
        """Run the command through the user's login shell, as sshd does."""
        shell = self.shell_of(user)
        account = self.account(user)
        who = {}
        if account is not None and account.pw_uid != os.geteuid():
            groups = os.getgrouplist(user, account.pw_gid)
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
        process = subprocess.Popen(
            [shell, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home(user),
            env=self.command_environment(user, sent),
            start_new_session=True,
            **who,
        )
        with self._lock:
            self._processes.add(process)
            self.commands.append((user, command if isinstance(command, str) else command.decode("utf-8", "replace")))
        return process

    def forget(self, process):
        with self._lock:
            self._processes.discard(process)


def _is_address(name):
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _kill_group(process):
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


class _Server(paramiko.ServerInterface):
    """One connection's answers. Called on the connection's own thread."""

    def __init__(self, node, transport):
        self.node = node
        self.transport = transport
        self.env = {}
        self.running = {}
        self.sockets = {}
        handlers = dict(transport._channel_handler_table)
        self._default = handlers[MSG_CHANNEL_REQUEST]
        handlers[MSG_CHANNEL_REQUEST] = self._channel_request
        transport._channel_handler_table = handlers

    def _channel_request(self, channel, message):
        """paramiko's servers do not know the ``signal`` request; everything else is left to it.

        A command's output follows the answer to its request, as with OpenSSH: asyncssh never ends a session that was closed before that answer.
        """
        at = message.packet.tell()
        kind = message.get_text()
        if kind != "signal":
            message.packet.seek(at)
            self._default(channel, message)
            process = self.running.get(channel.chanid) if kind == "exec" else None
            if process is not None:
                threading.Thread(
                    target=self._converse, args=(channel, process), name="login-node-command", daemon=True
                ).start()
            return
        message.get_boolean()
        number = getattr(signal, f"SIG{message.get_text()}", None)
        process = self.running.get(channel.chanid)
        if number is not None and process is not None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, number)

    # ---- authentication

    def get_allowed_auths(self, username):
        return "publickey,password" if self.node.passwords else "publickey"

    def check_auth_publickey(self, username, key):
        good = self.node.may(username, "key", key.get_base64())
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_auth_password(self, username, password):
        good = self.node.may(username, "password", password)
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    # ---- sessions

    def check_channel_request(self, kind, chanid):
        if kind != "session" or self.node.refuse_sessions:
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        self.node.counts["sessions"] += 1
        return paramiko.OPEN_SUCCEEDED

    def check_channel_env_request(self, channel, name, value):
        text = name.decode() if isinstance(name, bytes) else name
        if text != "LANG" and not text.startswith("LC_"):
            return False
        self.env.setdefault(channel.chanid, {})[text] = value.decode() if isinstance(value, bytes) else value
        return True

    def check_channel_exec_request(self, channel, command):
        user = self.transport.get_username()
        try:
            process = self.node.spawn(user, command, self.env.pop(channel.chanid, {}))
        except OSError:
            return False
        self.running[channel.chanid] = process
        return True

    def _converse(self, channel, process):
        """Carry the streams, then the exit."""
        if self.node.noise:
            _send(channel.sendall, self.node.noise.encode())
        feeder = threading.Thread(target=_feed, args=(channel, process), name="login-node-stdin", daemon=True)
        errors = threading.Thread(
            target=_drain, args=(process.stderr, channel.sendall_stderr), name="login-node-stderr", daemon=True
        )
        feeder.start()
        errors.start()
        _drain(process.stdout, channel.sendall)
        errors.join()
        code = process.wait()
        process.stdout.close()
        process.stderr.close()
        self.node.forget(process)
        self.running.pop(channel.chanid, None)
        try:
            if code < 0:
                self._exit_signal(channel, -code)
            else:
                channel.send_exit_status(code)
            channel.shutdown_write()
            channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            return

    def _exit_signal(self, channel, number):
        message = Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exit-signal")
        message.add_boolean(False)
        message.add_string(SIGNALS.get(number, "KILL"))
        message.add_boolean(False)
        message.add_string("")
        message.add_string("")
        self.transport._send_user_message(message)

    # ---- direct-tcpip

    def check_channel_direct_tcpip_request(self, chanid, origin, destination):
        name, port = destination
        address = self.node.resolve(name)
        if address is None:
            self.node.counts["refused_forwards"] += 1
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            raw = socket.create_connection((address, port), timeout=5)
        except OSError:
            self.node.counts["failed_forwards"] += 1
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        raw.settimeout(None)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.node.counts["forwards"] += 1
        self.sockets[chanid] = raw
        return paramiko.OPEN_SUCCEEDED

    def opened(self, channel):
        """The channel is open and the client knows: carry its bytes."""
        raw = self.sockets.pop(channel.chanid, None)
        if raw is not None:
            threading.Thread(target=_forward, args=(channel, raw), name="login-node-forward", daemon=True).start()


def _forward(channel, raw):
    """Both directions of a direct-tcpip channel, half-closes too."""
    back = threading.Thread(target=_to_socket, args=(channel, raw), name="login-node-forward-up", daemon=True)
    back.start()
    try:
        while data := raw.recv(CHUNK):
            channel.sendall(data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        channel.close()
    back.join()
    channel.close()
    raw.close()


def _send(send, data):
    try:
        send(data)
    except (OSError, EOFError, paramiko.SSHException):
        return False
    return True


def _drain(pipe, send):
    """From the process to the channel; when nobody listens any more the pipe is read on, so that the process can end."""
    fd, listening = pipe.fileno(), True
    while True:
        try:
            data = os.read(fd, CHUNK)
        except OSError:
            return
        if not data:
            return
        listening = listening and _send(send, data)


def _feed(channel, process):
    """From the channel to the process, and the end of it."""
    try:
        while data := channel.recv(CHUNK):
            process.stdin.write(data)
            process.stdin.flush()
    except (OSError, EOFError, ValueError):
        pass
    with contextlib.suppress(OSError):
        process.stdin.close()


def _to_socket(channel, raw):
    try:
        while data := channel.recv(CHUNK):
            raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
    except OSError:
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
