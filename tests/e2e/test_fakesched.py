"""The same path on PBS, Torque, LSF and openlava: fakesched's commands behind a paramiko login node, everything over SSH.

The schedulers are fake; their commands, jobs, the JupyterLab in them, SSH, hub, proxy and browser are real processes. An
application listens on loopback only: nobody but the login node knows the nodes' names, and here they all mean this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import requests
from playwright.sync_api import expect
from websockets.sync.client import ClientConnection, connect

from batchhub.auth.dictionary import hash_password
from batchhub.job.applications import JUPYTERLAB
from tests.e2e.parts import HubUnderTest, Person, browser, python_config, wait_until
from tests.fakesched.engine import Cluster
from tests.fakesched.login_node import LoginNode
from tests.fakesched.store import FINAL
from tests.needs import missing

pytestmark = pytest.mark.browser

# No accounts of this machine: their jobs run as whoever runs the tests, in homes of their own.
PASSWORDS = {"nosuch-ada": "analytical engine", "nosuch-grace": "a moth in relay 70"}
ADA, GRACE = PASSWORDS
CORES = 6
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Words:
    """What differs between the dialects.

    ``fill`` are a submit command's arguments for all cores but one. ``shorten`` gives a running job one minute: its id is to follow.
    """

    scheduler: str
    bin: str
    submit: str
    status: str
    cancel: str
    fill: tuple[str, ...]
    shorten: tuple[str, ...]
    waits: str
    no_queue: str
    job_variable: str
    fake: dict[str, Any]
    options: dict[str, Any]
    down: dict[str, Any] = field(default_factory=dict)
    """How the daemon is away. By itself LSF's client goes on trying for ever."""


PBS: dict[str, Any] = {
    "bin": "pbs",
    "submit": "qsub",
    "status": "qstat",
    "cancel": "qdel",
    "shorten": ("qalter", "-l", "walltime=00:01:00"),
    "waits": "Not Running: Not enough free nodes available",
    "no_queue": "Unknown queue",
    "job_variable": "PBS_JOBID",
}
LSF: dict[str, Any] = {
    "scheduler": "lsf",
    "bin": "lsf",
    "submit": "bsub",
    "status": "bjobs",
    "cancel": "bkill",
    "fill": ("-n", str(CORES - 1)),
    "shorten": ("bmod", "-W", "1"),
    "no_queue": "gone: No such queue",
    "job_variable": "LSB_JOBID",
}
DIALECTS = {
    "pbs": Words(scheduler="pbs", fill=("-l", f"select=1:ncpus={CORES - 1}"), fake={}, options={}, **PBS),
    "torque": Words(
        scheduler="torque", fill=("-l", f"nodes=1:ppn={CORES - 1}"), fake={"torque": True}, options={}, **PBS
    ),
    "lsf": Words(waits="Job slot limit reached: 1 host;", fake={}, options={}, **LSF),
    # Its table has no column for the reason.
    "openlava": Words(
        waits="waits in the queue",
        fake={"lsf": "openlava"},
        options={"flavour": "openlava"},
        down={"kind": "refused"},
        **LSF,
    ),
}


@dataclass
class Site:
    """A hub, its one cluster, and the words of the cluster's dialect."""

    words: Words
    cluster: Cluster
    login: LoginNode
    hub: HubUnderTest
    directory: Path

    def command(self, user: str, *argv: str, stdin: str = "") -> str:
        """Run a scheduler's command on the cluster, past the hub."""
        env = self.cluster.environment(self.words.bin, user) | {"HOME": str(self.directory)}
        argv = (str(Path(self.cluster.bin(self.words.bin)) / argv[0]), *argv[1:])
        done = subprocess.run(
            argv, input=stdin, env=env, cwd=self.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def filled(self) -> Iterator[str]:
        """A stranger's job on every core that grace does not have, for as long as it is wanted; its number."""
        out = self.command("nosuch-stranger", self.words.submit, *self.words.fill, stdin="#!/bin/sh\nsleep 600\n")
        (number,) = re.findall(r"\b\d+\b", out)
        self.cluster.wait(number, "RUNNING")
        try:
            yield str(number)
        finally:
            self.cluster.cancel(number)

    def live_jobs(self, user: str) -> dict[str, tuple[str, int]]:
        """Number -> (state, runs) of what has not ended."""
        live = [job for job in self.cluster.jobs() if job.user == user and job.state not in FINAL]
        return {job.id: (job.state, job.run) for job in live}

    def changes(self) -> tuple[int, int]:
        """How often something was submitted or cancelled."""
        return self.cluster.count(self.words.submit), self.cluster.count(self.words.cancel)


@pytest.fixture(scope="module", params=DIALECTS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One dialect's site, from nothing."""
    if not (BIN / "jupyter-lab").exists():
        missing("JupyterLab is not installed beside this Python: pip install jupyterlab")
    words = DIALECTS[request.param]
    directory = tmp_path_factory.mktemp(f"{request.param}-site")
    cluster = Cluster(directory / "cluster").create({"nodes": {"n1": {"cores": CORES}}, **words.fake})
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(directory / "key")
    (directory / "key").chmod(0o600)
    public = key.export_public_key().decode()
    with LoginNode(keys={"*": [public]}, cluster=cluster, dialects=(words.bin,)) as login:
        login.nodes = dict.fromkeys(login.nodes, "127.0.0.1")
        hub = HubUnderTest(directory, _config(words, login, directory / "key"))
        try:
            hub.start()
            yield Site(words, cluster, login, hub, directory)
        finally:
            hub.stop()
            cluster.shutdown()


def _config(words: Words, login: LoginNode, key: Path) -> str:
    ssh = {
        "host": login.host,
        "port": login.port,
        "known_hosts": login.known_hosts,
        "client_keys": [str(key)],
        "service_username": "nosuch-hub",
    }
    cluster = {
        "title": "Old cluster",
        "scheduler": words.scheduler,
        # What does not answer is waited for so long: short for the tests, long enough for a busy machine.
        "scheduler_options": {"submit_deadline": 8.0, "status_deadline": 6.0, **words.options},
        "transport": "ssh",
        "tunnel": "login",
        "ssh": ssh,
        "bind": "127.0.0.1",
        "prologue": f"export PATH={BIN}:$PATH",
    }
    root = ("--allow-root",) if os.geteuid() == 0 else ()
    application = {
        "title": "JupyterLab",
        "argv": [*JUPYTERLAB.argv, *root],
        "env": dict(JUPYTERLAB.env),
        "ready_path": JUPYTERLAB.ready_path,
        "guard_path": JUPYTERLAB.guard_path,
        "default_path": JUPYTERLAB.default_path,
    }
    fields = {
        "partition": {"choices": {"cpu": "Everybody's", "gone": "A queue that an admin forgot here"}},
        "cores": {},
        "memory": {"default": "1G"},
        "walltime": {"default": "20m"},
    }
    return python_config(
        {
            "BatchHub.authenticator_class": "dictionary",
            "DictionaryAuthenticator.users": {name: hash_password(text) for name, text in PASSWORDS.items()},
            "BatchHub.clusters": {"old": cluster},
            "BatchHub.profiles": [{"name": "lab", "title": "JupyterLab", "application": "lab", "fields": fields}],
            "BatchHub.applications": {"lab": application},
            "Watching.fast": 0.5,
            "Watching.slow": 0.5,
            "Watching.ceiling": 1.0,
            "Starting.first_word": 20.0,
        }
    )


class Program:
    """Somebody signed in without a browser: the REST API, and their notebook's."""

    def __init__(self, hub: HubUnderTest, name: str) -> None:
        self.hub, self.name = hub, name
        self.session = requests.Session()
        page = self._page("/hub/login")
        form = {"username": name, "password": PASSWORDS[name], "_xsrf": self._xsrf(page)}
        answer = self.session.post(f"{hub.url}/hub/login", data=form, timeout=120)
        assert answer.url.endswith("/hub/home"), answer.text
        self.session.headers["X-XSRFToken"] = self._xsrf(answer.text)

    def _page(self, path: str) -> str:
        answer = self.session.get(self.hub.url + path, timeout=120)
        answer.raise_for_status()
        return answer.text

    @staticmethod
    def _xsrf(page: str) -> str:
        found = re.search(r'name="_xsrf" value="([^"]+)"', page)
        assert found, page
        return found[1]

    @property
    def _api(self) -> str:
        return f"{self.hub.url}/hub/api/users/{self.name}/server"

    def start(self, **options: str) -> requests.Response:
        return self.session.post(self._api, json=options, timeout=120)

    def stop(self) -> None:
        assert self.session.delete(self._api, timeout=120).status_code in {202, 204}

    def server(self) -> dict[str, Any]:
        answer = self.session.get(self._api, timeout=120)
        answer.raise_for_status()
        return dict(answer.json())

    def until(self, phase: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for a phase; what is there instead is told."""
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.update(self.server())
            return bool(seen["phase"] == phase)

        try:
            wait_until(there, seconds, phase)
        except AssertionError as error:
            raise AssertionError(f"{self.name} is not {phase}: {seen}\n{self.hub.logs()}") from error
        return seen

    def ending(self) -> str:
        """The text of the page that tells how it ended."""
        page = self._page(f"/hub/spawn-pending/{self.name}")
        return " ".join(re.sub(r"<[^>]+>", " ", page).split())

    @contextmanager
    def kernel(self) -> Iterator[Kernel]:
        """A kernel of one's notebook, by way of the proxy."""
        base = f"{self.hub.url}/user/{self.name}/api"
        # A page that a person opens goes by way of the hub, which gives the ticket; programs' requests are refused without one.
        # The first may come a moment before the proxy has the route of a server that is told as ready.
        lab = {"url": f"{self.hub.url}/user/{self.name}/lab", "headers": {"Accept": "text/html"}, "timeout": 120}
        wait_until(lambda: self.session.get(**lab).status_code == 200, 60, "JupyterLab's page")
        made = self.session.post(f"{base}/kernels", json={"name": "python3"}, timeout=120)
        assert made.status_code == 201, made.text
        cookies = {cookie.name: cookie.value for cookie in self.session.cookies if cookie.path != "/hub/"}
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        url = f"{base}/kernels/{made.json()['id']}/channels".replace("http", "ws", 1)
        with connect(url, additional_headers=headers, origin=self.hub.url, open_timeout=120) as opened:
            yield Kernel(opened)


class Kernel:
    """One WebSocket to a kernel. It is never opened again: a cut connection fails the test."""

    def __init__(self, opened: ClientConnection) -> None:
        self._opened = opened
        self._session = uuid.uuid4().hex

    def compute(self, code: str) -> str:
        """Run it; what it prints."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": self._session,
            "username": "",
            "version": "5.3",
            "date": "",
        }
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._opened.send(json.dumps({**request, "buffers": []}))
        printed = ""
        while True:
            answer = json.loads(self._opened.recv(timeout=120))
            if answer["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if answer["msg_type"] == "stream":
                printed += answer["content"]["text"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return printed.strip()


@pytest.fixture(scope="module")
def grace(site: Site) -> Program:
    """Grace, whose server's submit command created the job and then lost its answer."""
    program = Program(site.hub, GRACE)
    site.cluster.fault("created_but_timeout", command=site.words.submit, times=1)
    answer = program.start(partition="cpu", walltime="30m")
    assert answer.status_code == 202, answer.text
    assert program.server()["job_id"] is None
    return program


@pytest.mark.usefixtures("grace")  # Finding her job by its name takes a while: it may as well pass here.
def test_from_sign_in_to_a_kernel_and_back(site: Site) -> None:
    words, cluster = site.words, site.cluster
    with site.filled() as stranger, browser() as chromium:
        submits = cluster.count(words.submit)
        ada = Person(chromium, site.hub)
        ada.sign_in(ADA, PASSWORDS[ADA])
        open_form_with_limits(ada)
        # A limit the queue told beforehand, then the scheduler's own refusal: both at the form, with the values kept.
        ada.submit(walltime="30h")
        expect(ada.page.get_by_text("partition cpu allows at most 1d").first).to_be_visible()
        assert cluster.count(words.submit) == submits
        ada.submit(walltime="30m", partition="gone")
        expect(ada.page.get_by_text(words.no_queue).first).to_be_visible()
        expect(ada.page.locator("[name=walltime]")).to_have_value("30m")
        assert site.live_jobs(ADA) == {}

        ada.submit(partition="cpu")
        ada.page.wait_for_url(f"**/hub/spawn-pending/{ADA}")
        expect(ada.page.get_by_text("Queued", exact=True).first).to_be_visible()
        expect(ada.page.get_by_text(words.waits).first).to_be_visible()
        cluster.cancel(stranger)
        ada.see_lab()
        ada.new_notebook()
        ada.compute(f"import os; print(1 + 1, os.environ['{words.job_variable}'])", "2 ")
        ((number, job),) = site.live_jobs(ADA).items()
        assert job == ("RUNNING", 1)
        no_secret_is_seen(site, number, ada.secrets())

        ada.stop_server()
        cluster.wait(number, "CANCELLED")
        expect(ada.page.get_by_text("Stopped").first).to_be_visible(timeout=120_000)
        ada.page.goto(f"{site.hub.url}/hub/spawn-pending/{ADA}")
        expect(ada.page.get_by_text("Stopped as asked.").first).to_be_visible()
    assert site.live_jobs(ADA) == {}


def open_form_with_limits(person: Person) -> None:
    """The form, once it has the partitions' limits: a busy machine's scheduler may not have told them the first time."""

    def told() -> bool:
        person.open_form()
        return person.page.get_by_text("cannot be read now").count() == 0

    wait_until(told, 120, "the limits of the partitions")


def no_secret_is_seen(site: Site, number: str, secrets: list[str]) -> None:
    """Neither the job's record nor its script, nobody's command line and no log holds a secret of ada's."""
    tokens = Path(site.login.home(ADA), ".batchhub/jobs").glob("*/token")
    secrets = [*secrets, *(token.read_text().strip() for token in tokens)]
    assert len(secrets) == 3
    seen = {
        "the job's record": repr(site.cluster.job(number)),
        "the job's script": Path(site.cluster.store.job_file(int(number), "script")).read_text(),
        "scheduler commands": repr(site.cluster.calls()),
        "the login node's commands": repr(site.login.commands),
        "the logs": "".join(path.read_text() for path in site.directory.glob("*.log")),
    }
    for where, text in seen.items():
        assert len(text) > 100, f"{where}: nothing was searched"
        assert not [secret for secret in secrets if secret in text], f"a secret is in {where}"


def test_a_scheduler_out_of_its_mind_changes_nothing_and_every_end_is_told(site: Site, grace: Program) -> None:
    words, cluster = site.words, site.cluster
    ada = Program(site.hub, ADA)
    assert ada.start(partition="cpu", walltime="30m").status_code == 202
    ids = {person.name: str(person.until("ready")["job_id"]) for person in (ada, grace)}
    # The job of the lost answer was found by its name, and not submitted again.
    assert [ids[GRACE].partition(".")[0]] == list(site.live_jobs(GRACE))
    assert [call.user for call in cluster.calls(words.submit)].count(GRACE) == 1

    one_question_for_everybody(site, set(ids.values()))
    jobs = [site.live_jobs(name) for name in (ADA, GRACE)]
    changes = site.changes()
    with grace.kernel() as kernel:
        kernel.compute("x = 40")
        for fault, how in (("down", words.down), ("garbage", {})):
            cluster.fault(fault, **how)
            is_told(grace, silent=True)
            asked = cluster.count(words.status)
            assert kernel.compute(f"x += 1; print('{fault}', x)").startswith(fault)
            wait_until(lambda before=asked: cluster.count(words.status) > before, 20, "it is asked again")
            assert {person.server()["phase"] for person in (ada, grace)} == {"ready"}
            cluster.clear_faults()
            is_told(grace, silent=False)
        if words.scheduler != "torque":  # Whose "Unknown Job Id" is the last word, as it keeps no records to ask.
            cluster.fault("missing_from_listing", job=ids[GRACE], times=3)
            asked = cluster.count(words.status)
            wait_until(lambda: cluster.count(words.status) > asked + 4, 20, "it is asked again")
        assert kernel.compute("print('and on', x)") == "and on 42"
        assert {person.server()["phase"] for person in (ada, grace)} == {"ready"}
        assert [site.live_jobs(name) for name in (ADA, GRACE)] == jobs
        assert site.changes() == changes

    # One ends by its time limit, the other by an administrator's hand.
    cluster.configure(seconds_per_minute=0.01, lsb_mod_all_jobs=True)
    site.command("root", *words.shorten, ids[ADA])
    cluster.cancel(ids[GRACE])
    assert ada.until("ended")["outcome"] == "timed out"
    assert grace.until("ended")["outcome"] == "cancelled outside"
    for person, words_of_its_end in ((ada, "It reached its time limit"), (grace, "cancelled from outside the hub")):
        page = person.ending()
        assert "JupyterLab has ended" in page
        assert words_of_its_end in page
    assert site.live_jobs(ADA) == site.live_jobs(GRACE) == {}
    the_trail_tells_it(site, ids[GRACE])


def the_trail_tells_it(site: Site, job: str) -> None:
    """`batchhub events` tells of grace's run, whose submit lost its answer, from the database of the hub that runs; its metrics count it."""
    argv = (sys.executable, "-m", "batchhub", "events", f"{GRACE}/", "--json", f"--config={site.hub.config}")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["job"] for line in lines} == {job}
    kinds = [line["kind"] for line in lines]
    assert kinds[:3] == ["requested", "submit", "unanswered"], kinds
    assert "answered" in kinds
    steps = [line for line in lines if line["kind"] == "phase"]
    assert all(line["seen"] for line in steps)
    assert steps[-1]["by"] == "scheduler"
    assert "cancelled outside" in steps[-1]["words"]
    # A scheduler that is silent or out of its mind is no step: it is seen in the figures.
    assert len(steps) <= 4, steps
    metrics = requests.get(f"http://127.0.0.1:{site.hub.hub_port}/hub/metrics", timeout=120).text
    ended = 'batchhub_ended_total{cluster="old",outcome="cancelled outside",profile="lab"} 1.0'
    for line in (ended, 'batchhub_unknown_seconds{cluster="old"} 0.0', f'program="{site.words.submit}"'):
        assert line in metrics, metrics
    assert 'batchhub_poll_failures_total{cluster="old"} 0.0' not in metrics
    assert GRACE not in metrics


def is_told(person: Program, *, silent: bool) -> None:
    """Wait until the server's page says that nobody can be asked, or no longer says so."""
    words = "The scheduler does not answer at the moment"
    wait_until(lambda: (words in person.server()["sentence"]) is silent, 30, f"silent is {silent}\n{person.hub.logs()}")


def one_question_for_everybody(site: Site, ids: set[str]) -> None:
    """Each status command asks for all jobs: one a tick, however many servers there are. The look for jobs that no row knows names none."""
    before = len(site.cluster.calls(site.words.status))

    def asked() -> list[Any]:
        later = site.cluster.calls(site.words.status)[before + 1 :]
        return [call for call in later if ids & set(call.argv)]

    wait_until(lambda: len(asked()) >= 4, 120, "more questions")
    assert all(ids <= set(call.argv) for call in asked()), asked()
