"""Starts of JupyterLab on the tests' Slurm cluster, each seen from outside: by the hub's form with a browser, and by a bare sbatch."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from batchhub.auth.dictionary import hash_password
from bench.machine import Unfit
from tests.e2e.parts import HubUnderTest, Person, browser, jupyter_for_everybody, python_config
from tests.lab.cluster import SlurmLab

WALLTIME = "20m"
USER = "alice"
PATH = f"/user/{USER}/"
PORT = 18888
PATIENCE = 120.0
LISTENS = re.compile(
    r"^\[I (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) ServerApp\] Jupyter Server \S+ is running at", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds from the script's first line until it listens, until it answers, and until the browser sets out (ours alone)."""

    listens: float
    usable: float
    browser: float = 0.0


def soon(true: Callable[[], Any], what: str) -> Any:
    """Look every 20 ms until it is true. Raises Unfit."""
    ends = time.monotonic() + PATIENCE
    while not (found := true()):
        if time.monotonic() > ends:
            raise Unfit(f"Not within {PATIENCE:g} s: {what}.")
        time.sleep(0.02)
    return found


def listening_since(text: str) -> float | None:
    """When JupyterLab said that it listens, by its own log."""
    found = LISTENS.search(text)
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f").timestamp() if found else None


def first_answer(url: str, token: str) -> float:
    """When ``url`` first answered with 200, asked every 20 ms."""
    asking = requests.Session()
    asking.headers["Authorization"] = f"token {token}"
    asking.trust_env = False

    def answers() -> bool:
        try:
            return asking.get(url, timeout=5, allow_redirects=False).status_code == 200
        except requests.RequestException:
            return False

    soon(answers, f"200 from {url}")
    return time.time()  # noqa: TID251 - a program of its own


class Site:
    """The cluster, the hub, and a person who is signed in."""

    def __init__(self, lab: Any, hub: Any, person: Any, jupyter: Path, directory: Path) -> None:
        self.lab, self.hub, self.person, self.jupyter, self.directory = lab, hub, person, jupyter, directory
        self.home = Path(f"~{USER}").expanduser()
        self.begun = self.home / ".bench-begun"
        person.page.goto(f"{hub.url}/hub/token")
        person.page.locator("[name=note]").fill("bench")
        person.page.get_by_role("button", name="Make a token").click()
        self.token = person.page.locator("#fresh-token").inner_text()

    def tidy(self) -> None:
        """As before the first start."""
        self.lab.cancel_all()
        self.begun.unlink(missing_ok=True)

    def ours(self) -> Start:
        """By the form."""
        self.tidy()
        known = set(self._jobs())
        page = self.person.page
        self.person.open_form()
        answered: list[float] = []
        asking = threading.Thread(
            target=lambda: answered.append(first_answer(f"{self.hub.url}{PATH}api/status", self.token)), daemon=True
        )
        asking.start()
        self.person.submit(walltime=WALLTIME, cores="1")
        page.wait_for_url(f"**{PATH}lab**", timeout=PATIENCE * 1000, wait_until="commit")
        set_out = page.evaluate("performance.timeOrigin") / 1000
        asking.join(PATIENCE)
        if not answered:
            raise Unfit("The server was never usable by the API.")
        begun = float(self.begun.read_text())
        (directory,) = set(self._jobs()) - known
        listens = soon(lambda: listening_since((directory / "job.log").read_text()), "JupyterLab says it listens")
        page.goto(f"{self.hub.url}/hub/home")
        page.get_by_role("button", name="Stop").first.click()
        soon(lambda: not self.lab.admin("squeue", "-h"), "the job has ended")
        soon((directory / "exit.json").exists, "the launcher has ended")
        page.goto(f"{self.hub.url}/hub/home")
        return Start(listens - begun, answered[0] - begun, set_out - listens)

    def bare(self) -> Start:
        """By sbatch."""
        self.tidy()
        log = self.home / "bench-bare.log"
        log.unlink(missing_ok=True)
        script = "\n".join(
            [
                "#!/bin/bash",
                f"date +%s.%N > {self.begun}",
                f"export PATH={self.jupyter}:$PATH JUPYTER_TOKEN=bench",
                f"exec jupyter-lab --no-browser --ip=0.0.0.0 --port={PORT} --ServerApp.base_url={PATH}",
                "",
            ]
        )
        argv = ["sbatch", "--parsable", "-t", "20", "-n", "1", "--mem=300M", "-o", str(log)]
        done = self.lab.run_as(USER, argv, script)
        if done.returncode:
            raise Unfit(f"sbatch: {done.stderr.strip()}")
        number = done.stdout.strip()
        job = soon(lambda: (found := self.lab.job(number)).get("BatchHost") and found, "the job has a node")
        address = self.lab.node_addresses[job["BatchHost"]]
        usable = first_answer(f"http://{address}:{PORT}{PATH}api/status", "bench")
        begun = float(self.begun.read_text())
        listens = soon(lambda: listening_since(log.read_text()), "JupyterLab says it listens")
        self.tidy()
        return Start(listens - begun, usable - begun)

    def _jobs(self) -> list[Path]:
        place = self.home / ".batchhub" / "jobs"
        return list(place.iterdir()) if place.is_dir() else []


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, list[Start]]:
    """``rounds`` starts of each kind, in turn, after one of each to warm up. Raises Unfit."""
    found: dict[str, list[Start]] = {"ours": [], "bare": []}
    try:
        with SlurmLab() as lab, tempfile.TemporaryDirectory() as place:
            directory, jupyter = Path(place), jupyter_for_everybody()
            hub = HubUnderTest(
                directory, _config(lab, directory, jupyter), prefix=lab.in_hub_namespace([]), host=lab.hub_host
            )
            try:
                hub.start()
                with browser() as chromium:
                    person = Person(chromium, hub)
                    person.sign_in(USER, "bench")
                    site = Site(lab, hub, person, jupyter, directory)
                    for number in range(rounds + 1):
                        say(f"round {number} of {rounds}" + (" (warming up, not counted)" if not number else ""))
                        seen = {"ours": site.ours(), "bare": site.bare()}
                        for name, start in seen.items() if number else ():
                            found[name].append(start)
                    site.tidy()
            finally:
                hub.stop()
    except pytest.skip.Exception as error:
        raise Unfit(str(error)) from error
    return found


def _config(lab: Any, directory: Path, jupyter: Path) -> str:
    begun = f"{Path(f'~{USER}').expanduser()}/.bench-begun"
    cluster = {
        "scheduler": "slurm",
        "transport": "ssh",
        "prologue": f"export PATH={jupyter}:$PATH",
        "ssh": {**lab.way_in(directory, USER), "known_hosts": lab.host_key_line},
    }
    templates = directory / "templates"
    templates.mkdir()
    (templates / "slurm.sh.j2").write_text(
        f'{{% extends "slurm.sh.j2" %}}\n{{% block output %}}\ndate +%s.%N > {begun}\n{{{{ super() }}}}\n{{% endblock %}}\n'
    )
    return python_config(
        {
            "BatchHub.authenticator_class": "dictionary",
            "DictionaryAuthenticator.users": {USER: hash_password("bench")},
            "BatchHub.template_dirs": [str(templates)],
            "BatchHub.clusters": {"hpc": cluster},
            "BatchHub.profiles": [
                {"name": "lab", "fields": {"cores": {}, "memory": {"default": "300M", "min": 64}, "walltime": {}}}
            ],
            "Limits.starts_each": 0,
        }
    )
