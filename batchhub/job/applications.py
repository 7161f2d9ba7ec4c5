"""How an application is started so that a proxy under ``/user/NAME/`` can show it: its command, environment and questions.

An application is data. The places ``{port} {ip} {socket} {base_url} {token_file} {job_dir}`` are filled on the node by ``launch.py``;
``{token}`` may stand in the environment only. ``{base_path}`` in a command is the base URL without its final ``/``. An application that has no secret of its own is given a Unix socket that only its
owner can open; on a port anybody on the node could use it, so that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from batchhub.core import handshake
from batchhub.core.errors import BadInput

NO_ENV: Mapping[str, str | None] = MappingProxyType({})
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,200}")


@dataclass(frozen=True, slots=True)
class Application:
    """A web application.

    ``argv`` starts it when it is given a port, ``socket_argv`` when it is given a Unix socket; an empty one means it cannot. ``env``
    is set for it, a value of ``None`` removes the variable. ``ready_path`` and ``guard_path`` may hold ``{base_url}``: the first answers
    when it is up, the second is closed to strangers and opens with the token (empty: not checked). ``scheme`` is how it takes its
    token in the Authorization header; empty means that it has none. ``default_path`` is where people land, below the base URL.
    ``hub_argv`` is added to its command and tells it where the hub is; ``{hub}`` (a path), ``{hub_host}`` (its origin, empty if it is the
    application's own), ``{username}`` and ``{server}`` may stand in it.
    ``strip_prefix``: it knows nothing of the base URL, the proxy has to take it off. ``ready_timeout`` is in seconds.
    ``shutdown_path`` may hold ``{base_url}``: a POST there with its token makes it end by itself (empty: its job is just cancelled).
    ``activity`` is how it is known to be in use: by what passes the proxy, or by asking Jupyter's API for kernels and terminals.
    """

    name: str
    title: str
    argv: tuple[str, ...] = ()
    socket_argv: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=lambda: NO_ENV)
    ready_path: str = "{base_url}"
    guard_path: str = ""
    scheme: str = "token"
    default_path: str = ""
    strip_prefix: bool = False
    shutdown_path: str = ""
    activity: Literal["traffic", "jupyter"] = "traffic"
    hub_argv: tuple[str, ...] = ()
    ready_timeout: float = 300.0

    def check(self) -> None:
        """Raise BadInput if it could not be started, or would stand open to other users of the node."""
        if not _NAME.fullmatch(self.name):
            raise BadInput(f"An application's name {self.name[:40]!r} must be lower-case letters, digits, '-' and '_'.")
        if not self.argv and not self.socket_argv:
            raise BadInput(f"Application {self.name}: argv or socket_argv must say how it is started.")
        if self.argv and not self.scheme:
            raise BadInput(
                f"Application {self.name} has no secret of its own (scheme is empty), so anybody on the node could use its port: "
                "give it socket_argv instead of argv."
            )
        handshake.authorization(self.scheme, "")
        if self.shutdown_path and not _PATH.fullmatch(self.shutdown_path.replace("{base_url}", "/", 1)):
            raise BadInput(
                f"Application {self.name}: shutdown_path {self.shutdown_path[:60]!r} is not a path such as {{base_url}}api/shutdown."
            )
        if self.activity == "jupyter" and self.strip_prefix:
            raise BadInput(
                f"Application {self.name}: activity 'jupyter' does not fit strip_prefix; Jupyter keeps its base URL."
            )
        for socket in (False, True):
            if self.socket_argv if socket else self.argv:
                self.document("/user/x/", socket=socket)

    def with_arguments(self, words: tuple[str, ...]) -> Application:
        """The same application with words added to its command."""
        if not words:
            return self
        argv, socket_argv = ((*argv, *words) if argv else () for argv in (self.argv, self.socket_argv))
        return replace(self, argv=argv, socket_argv=socket_argv)

    def authorization(self, token: str) -> str:
        """The Authorization header that the proxy adds for it."""
        return handshake.authorization(self.scheme, token)

    def probed_path(self, base_url: str) -> str:
        """What the proxy asks it for, as the application has it, to learn whether it is up and takes the token."""
        return _below(base_url, self.guard_path or self.ready_path, self.strip_prefix)

    def shutdown(self, base_url: str) -> str:
        """Where a POST makes it end, as it has the path itself; empty if nothing does."""
        return _below(base_url, self.shutdown_path, self.strip_prefix)

    def document(
        self,
        base_url: str,
        *,
        socket: bool = False,
        bind: Literal["127.0.0.1", "0.0.0.0"] = "127.0.0.1",  # noqa: S104 -- a type, not a bind
        ports: tuple[int, int] | None = None,
        callback_url: str = "",
        env: Mapping[str, str | None] = NO_ENV,
        username: str = "",
        server: str = "",
        dial_in: handshake.DialIn | None = None,
        hub_host: str = "",
        time_up: handshake.BeforeEnd | None = None,
    ) -> bytes:
        """``launch.json`` for a server at ``base_url``. ``env`` is the profile's and wins. Raises BadInput."""
        here = {"{base_path}": base_url.rstrip("/")}
        argv = tuple(_fill(word, here) for word in (self.socket_argv if socket else self.argv))
        if argv and username:
            places = {"{hub}": "/hub/", "{hub_host}": hub_host, "{username}": username, "{server}": server}
            argv = (*argv, *(_fill(word, places) for word in self.hub_argv))
        if not argv:
            raise BadInput(f"{self.title} cannot listen on a {'Unix socket' if socket else 'port'}.")
        return handshake.launch_document(
            argv=argv,
            env={**self.env, **env},
            bind=bind,
            ports=ports,
            socket=socket,
            base_url=base_url,
            ready_path=_below(base_url, self.ready_path, self.strip_prefix),
            guard_path=_below(base_url, self.guard_path, self.strip_prefix),
            scheme=self.scheme,
            ready_timeout=self.ready_timeout,
            callback_url=callback_url,
            dial_in=dial_in,
            time_up=time_up,
        )


def _fill(word: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def _below(base_url: str, path: str, strip_prefix: bool) -> str:
    return path.replace("{base_url}", "/" if strip_prefix else base_url)


_JUPYTER = (
    "--no-browser",
    "--ServerApp.base_url={base_url}",
    "--ServerApp.trust_xheaders=True",
    # The proxy keeps the browser's Host header, so Jupyter's own origin check, CSP and XSRF protection stay as they are.
    "--ServerApp.allow_remote_access=True",
)
_JUPYTER_PORT = ("--ServerApp.ip={ip}", "--ServerApp.port={port}", "--ServerApp.port_retries=0")
_JUPYTER_SOCKET = ("--ServerApp.sock={socket}", "--ServerApp.sock_mode=0600")

JUPYTERLAB = Application(
    name="jupyterlab",
    title="JupyterLab",
    # Not `jupyter lab`: that is a Python of its own, which looks for this program and starts it.
    argv=("jupyter-lab", *_JUPYTER, *_JUPYTER_PORT),
    socket_argv=("jupyter-lab", *_JUPYTER, *_JUPYTER_SOCKET),
    # jupyter_server/auth/identity.py: JUPYTER_TOKEN wins over JUPYTER_TOKEN_FILE; a file's content is taken as it is.
    env=MappingProxyType({"JUPYTER_TOKEN": None, "JUPYTER_TOKEN_FILE": "{token_file}"}),
    ready_path="{base_url}api",
    guard_path="{base_url}api/status",
    # jupyter_server/services/shutdown.py: kernels are interrupted and get to their `finally` and atexit, then it ends with 0.
    shutdown_path="{base_url}api/shutdown",
    activity="jupyter",
    default_path="lab",
    # What makes JupyterLab's own hub extension show "Hub Control Panel" and "Log Out" in its File menu.
    hub_argv=(
        # Else the menu has "Log Out" a second time, and a "Shut Down" that the hub would take for an end nobody asked for.
        "--ServerApp.quit_button=False",
        (
            "--ServerApp.tornado_settings={'page_config_data':"
            "{'hubPrefix':'{hub}','hubHost':'{hub_host}','hubUser':'{username}','hubServerName':'{server}'}}"
        ),
    ),
)
"""The default. Its root directory is the directory it starts in: the job script's ``launch`` block sets the home directory."""

NOTEBOOK = replace(
    JUPYTERLAB,
    name="notebook",
    title="Jupyter Notebook",
    argv=("jupyter-notebook", *_JUPYTER, *_JUPYTER_PORT),
    socket_argv=("jupyter-notebook", *_JUPYTER, *_JUPYTER_SOCKET),
    default_path="tree",
)

_QUIET = ("--disable-telemetry", "--disable-update-check")  # nodes seldom reach the world, and people cannot update it

CODE_SERVER = Application(
    name="code-server",
    title="VS Code (code-server)",
    socket_argv=("code-server", "--auth=none", "--socket={socket}", "--socket-mode=600", *_QUIET),
    ready_path="{base_url}healthz",
    scheme="",
    strip_prefix=True,
)
"""code-server finds its own address from the page's; it wants the prefix taken off. No password: the socket is its owner's alone.
Tried with 4.100."""

RSTUDIO = Application(
    name="rstudio",
    title="RStudio",
    socket_argv=(
        "rserver",
        "--server-daemonize=0",
        "--auth-none=1",
        "--www-socket={socket}",
        "--www-root-path={base_url}",
        "--server-data-dir={job_dir}",
        "--database-config-file=/dev/null",
        "--secure-cookie-key-file={job_dir}/rstudio-key",
        "--server-user=",
    ),
    scheme="",
    strip_prefix=True,
)
"""RStudio Server as the person's own process (from 1.4 on, which knows ``--www-socket``). Not tested here: needs the product."""

MARIMO = Application(
    name="marimo",
    title="marimo",
    argv=(
        "marimo",
        "edit",
        "--headless",
        "--host={ip}",
        "--port={port}",
        "--base-url={base_path}",
        "--token-password-file={token_file}",
        "--skip-update-check",
    ),
    ready_path="{base_url}health",
    guard_path="{base_url}api/status",
    scheme="Basic",
)
"""marimo takes its token from a file and as the password of HTTP Basic. Tried with 0.25."""

BUILT_IN: Mapping[str, Application] = MappingProxyType(
    {app.name: app for app in (JUPYTERLAB, NOTEBOOK, CODE_SERVER, RSTUDIO, MARIMO)}
)


def custom(name: str, title: str, command: tuple[str, ...], base: Application | None = None) -> Application:
    """A site's own command: ``{socket}`` in it makes it listen on a socket, ``{port}`` on a port. Raises BadInput.

    ``base`` lends the rest (``dataclasses.replace`` changes single fields). Without one, a command with a port is taken to ask for its token
    as Jupyter does, and one with a socket to have none.
    """
    uses_socket = any("{socket}" in word for word in command)
    uses_port = any("{port}" in word for word in command)
    if uses_socket == uses_port:
        raise BadInput(f"Application {name[:40]}: its command must hold either {{port}} or {{socket}}.")
    start = base or Application(name=name, title=title, scheme="" if uses_socket else "token")
    made = replace(
        start,
        name=name,
        title=title,
        argv=() if uses_socket else command,
        socket_argv=command if uses_socket else (),
    )
    made.check()
    return made
