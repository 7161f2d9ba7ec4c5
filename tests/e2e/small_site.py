"""A whole site of real processes that starts in seconds: hub, proxy, a login node, fakesched, and the smallest application."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncssh
import requests

from batchhub.app.state import StateDirectory
from batchhub.auth.dictionary import hash_password
from tests.e2e.parts import HubUnderTest, python_config, wait_until
from tests.e2e.test_fakesched import ADA, PASSWORDS, Program
from tests.fakesched.engine import Cluster
from tests.fakesched.login_node import LoginNode
from tests.fakesched.store import FINAL

SCHEDULERS: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "slurm": ("slurm", ("sbatch", "scancel"), {}),
    "pbs": ("pbs", ("qsub", "qdel"), {}),
    "lsf": ("lsf", ("bsub", "bkill"), {}),
}
ENGINES: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "docker": ("docker", ("docker", "docker"), {}),
}
"""One executable for everything: submits and cancels are told by their arguments alone."""
SECONDS = 60.0


@dataclass
class SmallSite:
    """One cluster, one person."""

    cluster: Cluster
    login: LoginNode
    hub: HubUnderTest
    commands: tuple[str, str]

    def live(self) -> list[Any]:
        """Her jobs that have not ended."""
        return [job for job in self.cluster.jobs() if job.user == ADA and job.state not in FINAL]

    def changes(self) -> tuple[int, int]:
        """How often something was submitted or cancelled."""
        return self.cluster.count(self.commands[0]), self.cluster.count(self.commands[1])

    def routes(self) -> dict[str, Any]:
        """What the proxy has for servers."""
        token = StateDirectory(self.hub.state).api_token
        url = f"http://127.0.0.1:{self.hub.api_port}/api/routes"
        found = requests.get(url, headers={"Authorization": f"token {token}"}, timeout=10)
        found.raise_for_status()
        return {path: route for path, route in found.json().items() if path.startswith("/user/")}

    def enter(self, person: Program) -> str:
        """The application's process id, by way of proxy and tunnel."""
        answer = person.session.get(
            f"{self.hub.url}/user/{person.name}/pid", headers={"Accept": "text/html"}, timeout=20
        )
        return answer.text if answer.status_code == 200 else f"HTTP {answer.status_code}: {answer.text[:200]}"

    def entered(self, person: Program) -> str:
        """The same, once it can be had."""
        return str(wait_until(lambda: self._pid(person), SECONDS, f"she is let in\n{self.hub.logs()}"))

    def _pid(self, person: Program) -> str:
        with contextlib.suppress(requests.RequestException):
            found = self.enter(person)
            return found if found.isdigit() else ""
        return ""


@contextlib.contextmanager
def small_site(
    scheduler: str,
    directory: Path,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    ssh: Mapping[str, Any] = MappingProxyType({}),
    beside: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[SmallSite]:
    """Made from nothing; ``options`` are the dialect's, ``settings`` traits, with ``__`` for the dot. Nothing is started but the login node.

    ``ssh``: more of the table of that name. ``beside``: more clusters behind it, scheduler -> options, each with a profile of the scheduler's name.
    """
    folder, commands, fake = {**SCHEDULERS, **ENGINES}[scheduler]
    cluster = Cluster(directory / "cluster").create(
        {"nodes": {"n1": {"cores": 6}}, "kill_wait": 0.3, "users": [ADA], **fake}
    )
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(directory / "key")
    (directory / "key").chmod(0o600)
    with LoginNode(
        keys={"*": [key.export_public_key().decode()]}, cluster=cluster, dialects=(folder, *beside)
    ) as login:
        login.nodes = dict.fromkeys(login.nodes, "127.0.0.1")
        reached = {
            "host": login.host,
            "port": login.port,
            "known_hosts": login.known_hosts,
            "client_keys": [str(directory / "key")],
            "service_username": "nosuch-hub",
            **ssh,
        }
        table = {
            "scheduler": scheduler,
            "scheduler_options": dict(options),
            "transport": "ssh",
            "tunnel": "login",
            "ssh": reached,
            "bind": "127.0.0.1",
        }
        application = {
            "title": "Small",
            "argv": [sys.executable, str(Path(__file__).with_name("small_app.py")), "{ip}", "{port}", "{token_file}"],
            "ready_path": "{base_url}api",
            "guard_path": "{base_url}status",
        }
        values = {
            "BatchHub.authenticator_class": "dictionary",
            "DictionaryAuthenticator.users": {ADA: hash_password(PASSWORDS[ADA])},
            "BatchHub.clusters": {
                "hpc": table,
                **{name: {**table, "scheduler": name, "scheduler_options": dict(its)} for name, its in beside.items()},
            },
            "BatchHub.profiles": [
                {"name": name, "title": name, "application": "small", "cluster": where, "fields": {"cores": {}}}
                for name, where in (("small", "hpc"), *zip(beside, beside, strict=True))
            ],
            "BatchHub.applications": {"small": application},
            "Watching.fast": 0.3,
            "Watching.slow": 0.3,
            "Watching.ceiling": 1.0,
            "Starting.first_word": 1.0,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        hub = HubUnderTest(directory, python_config(values))
        try:
            yield SmallSite(cluster, login, hub, commands)
        finally:
            hub.stop()
            cluster.shutdown()


def server_of(person: Program) -> dict[str, Any]:
    """Her server as the API shows it; empty while the hub cannot be asked."""
    try:
        answer = person.session.get(f"{person.hub.url}/hub/api/users/{person.name}/server", timeout=10)
        return dict(answer.json()) if answer.status_code == 200 else {}
    except (requests.RequestException, json.JSONDecodeError):
        return {}
