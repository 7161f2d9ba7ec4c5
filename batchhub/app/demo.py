"""``batchhub demo``: the whole thing for one person, here and now. No root, no scheduler, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import shutil
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Bool
from traitlets.config import Config

from batchhub.app.command import Command, say
from batchhub.app.detached import await_end, start_detached, stop_detached
from batchhub.app.hub import Hub, serve
from batchhub.app.plan import HubPlan, plan_hub
from batchhub.app.site import read_site
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.link import LinkAuthenticator
from batchhub.config import traits
from batchhub.core.errors import ConfigError, HubError
from batchhub.core.model import UserName

_TEMPLATE = """\
# Written by `batchhub demo`.
c = get_config()
c.BatchHub.state_dir = {state!r}
c.BatchHub.authenticator_class = "link"
c.BatchHub.clusters = {clusters!r}
c.BatchHub.profiles = {profiles!r}
c.Proxy.ip = "127.0.0.1"
c.Proxy.port = {port}
c.Proxy.api_port = {api_port}
c.Hub.port = {hub_port}
c.Watching.fast = 0.5
c.Watching.slow = 2.0
c.Watching.ceiling = 5.0
c.Pages.title = "BatchHub demo"
"""
_NEXT_LINK = timedelta(
    hours=24
)  # for whoever signs out, or uses another browser: on the terminal of the one who started it


class Demo(Command):
    """The demo."""

    name = "batchhub demo"
    unlisted = frozenset({"config", "state-dir", "ip"})
    description = (
        "Open a hub on this machine with the embedded queue and JupyterLab, for you alone. It prints a link that signs you in "
        "once. Ctrl-C ends it, with its jobs, and leaves nothing behind."
    )
    browser = Bool(True, help="Open the link in a browser, where there is one.").tag(config=True)
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.flags,
        "no-browser": ({"Demo": {"browser": False}}, "Only print the link."),
    }

    def start(self) -> None:
        """Everything in a directory that goes away at the end."""
        from_command_line = deepcopy(self.config)
        home = Path(tempfile.mkdtemp(prefix="batchhub-demo-"))
        try:
            self.config_file = str(home / "batchhub_config.py")
            (home / "queue").mkdir(mode=0o700)
            Path(self.config_file).write_text(_config(home, from_command_line))
            self.log_words = "warning" if "log_words" not in from_command_line.get("Command", {}) else self.log_words
            super().start()
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def act(self) -> None:
        """Proxy, hub, link; then wait."""
        if self.log_words == "warning":
            logging.getLogger("batchhub.audit").setLevel(logging.WARNING)  # the terminal is for the links
        state = StateDirectory.open(self.trait(traits.BatchHub).state_dir)
        proxy = self.trait(traits.Proxy)
        door = f"http://127.0.0.1:{proxy.port}/hub/login#link="

        def used(user: str) -> None:
            say(f"  To sign in again:  {door}{authenticator.issue(user, utc_now(), _NEXT_LINK)}\n")

        # Whoever tries it is to see the admin pages too.
        authenticator = LinkAuthenticator(
            parent=self, clock=utc_now, used=used, admin_users={getpass.getuser().lower()}
        )
        plan = plan_hub(self.trait, read_site(self.trait(traits.BatchHub)), state, {"link": authenticator})
        start_detached(state, [f"--config={self.config_file}", "--log-level=warning"], lambda: _listens(proxy.api_port))
        try:
            asyncio.run(self._serve(plan, lambda user: f"{door}{authenticator.issue(user, utc_now())}"))
        finally:
            proxy_pid = stop_detached(state)
            if proxy_pid is not None:
                await_end(proxy_pid)  # else it would write into the directory while that is removed

    async def _serve(self, plan: HubPlan, link_for: Callable[[str], str]) -> None:
        user = getpass.getuser()
        link = link_for(user)

        def started(_hub: Hub) -> None:
            say(
                f"\n  BatchHub is open. This link signs you in; it works once, within 15 minutes:\n\n    {link}\n\n"
                "  Ctrl-C ends BatchHub and its jobs.\n"
            )
            if self.browser and (
                os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"
            ):
                webbrowser.open(link)

        await serve(plan, started, lambda hub: _stop_all(hub, UserName(user)))


async def _stop_all(hub: Hub, user: UserName) -> None:
    """End the demo's jobs; the queue's own supervisors would keep them for hours."""
    with contextlib.suppress(TimeoutError, HubError):
        async with asyncio.timeout(25):
            views = [view for view in await hub.service.servers_of(user) if view.server.alive]
            if views:
                say(f"\n  Stopping {len(views)} server{'s' if len(views) > 1 else ''} …")
            for view in views:
                await hub.service.stop(user, view.server.name, user)
                async for seen in hub.service.watch(user, view.server.name):
                    if not seen.server.alive:
                        break
            for view in await hub.service.servers_of(user):
                for run in await hub.store.runs_of(user, view.server.name, limit=10_000):
                    if run.directory:
                        shutil.rmtree(run.directory, ignore_errors=True)


def _config(home: Path, given: Config) -> str:
    if shutil.which("jupyter-lab", path=_path()) is None:
        raise ConfigError("JupyterLab is not installed beside BatchHub: pip install 'batchhub[demo]'")
    port = _free_port(int(given.get("Proxy", {}).get("port", 8000)), fixed="port" in given.get("Proxy", {}))
    clusters = {
        "local": {
            "title": "this machine",
            "scheduler": "local",
            "scheduler_options": {"python": sys.executable, "spool": str(home / "queue")},
            "python": sys.executable,
            "node_address": "127.0.0.1",
            "environment": {"PATH": _path()},
        }
    }
    cores = os.cpu_count() or 1
    profiles = [
        {
            "name": "jupyterlab",
            "title": "JupyterLab",
            "description": "JupyterLab in a job of the embedded queue.",
            # JupyterLab refuses to run as root, and in a container a demo often is.
            "arguments": ["--allow-root"] if os.geteuid() == 0 else [],
            "fields": {
                "cores": {"max": cores, "default": 1},
                "memory": {"default": "1G", "max": "64G"},
                "walltime": {"default": "2h", "max": "12h"},
            },
        }
    ]
    return _TEMPLATE.format(
        state=str(home / "state"),
        clusters=clusters,
        profiles=profiles,
        port=port,
        api_port=_free_port(0, fixed=False),
        hub_port=_free_port(0, fixed=False),
    )


def _path() -> str:
    here = str(Path(sys.executable).parent)
    return f"{here}:{os.environ.get('PATH', '/usr/bin:/bin')}"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port(wanted: int, *, fixed: bool) -> int:
    """The wanted port, or a free one if it is taken and nobody insisted."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if fixed:
                    raise ConfigError(f"Port {wanted} is taken: {error.strerror}.") from error
                continue
            return int(probe.getsockname()[1])
    raise ConfigError("There is no free port on this machine.")
