"""A cluster, a proxy and a job builder in memory: what the control plane's tests need outside, without patches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from batchhub.control.ports import JobFiles
from batchhub.core.customising import NOT_CUSTOMISED, Customisation
from batchhub.core.errors import Denied, FileMissing, SubmitAmbiguous, SubmitRejected, TunnelError, Unreachable
from batchhub.core.handshake import Connection
from batchhub.core.model import Endpoint, JobId, JobReport, JobState, Listing, QueueInfo, Server
from batchhub.core.ports import Answer, Command, Completed, JobRequest, RouteTarget, Use
from batchhub.core.proofs import PROOF, Facts, proof_document, read_proof

KEY = b"k" * 32
T0 = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Job:
    report: JobReport
    name: str
    user: str


@dataclass
class MemoryCluster:
    """Dialect and transport in one. ``calls`` lists what was asked; ``down`` and the other switches are its faults."""

    clock: Clock
    name: str = "memory"
    jobs: dict[JobId, Job] = field(default_factory=dict)
    records: dict[JobId, JobReport] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    down: bool = False
    accounting_down: bool = False
    has_accounting: bool = True
    says_gone: bool = False
    hide: int = 0
    refuse: str = ""
    lose_answer: bool = False
    lose_submits: int = 0
    fail_cancels: int = 0
    files_away: bool = False
    next_id: int = 100
    asked_as: dict[str, str | None] = field(default_factory=dict)
    removed: list[tuple[str, str]] = field(default_factory=list)
    stuck: dict[str, Exception] = field(default_factory=dict)

    def count(self, what: str) -> int:
        return sum(call == what for call in self.calls)

    # the scheduler's side

    def set(self, state: JobState, host: str = "", **facts) -> None:
        for job in self.jobs.values():
            job.report = replace(job.report, state=state, host=host, **facts)

    def run(self, host: str = "n1") -> None:
        self.set(JobState.RUNNING, host, started=self.clock())

    def end(self, state: JobState = JobState.COMPLETED, **facts) -> None:
        for job_id, job in list(self.jobs.items()):
            self.records[job_id] = replace(
                job.report, state=state, ended=self.clock(), raw_state=state.upper(), **facts
            )
            del self.jobs[job_id]

    def listen(self, server: Server, port: int = 4711, generation: int | None = None, nonce: str = "0" * 32) -> None:
        found = generation or json.loads(self.files[f"{server.directory}/secrets.json"])["generation"]
        document = {"version": 1, "host": "n1", "addresses": [], "port": port, "socket": "", "pid": 1}
        document |= {"nonce": nonce, "generation": found, "time": 1.0}
        self.files[f"{server.directory}/connection.json"] = json.dumps(document).encode()

    # Dialect

    def submit(self, request: JobRequest) -> Command:
        return Command(("submit", request.name, request.user), stdin=request.script)

    def read_submit(self, done: Completed) -> JobId:
        if done.timed_out:
            raise SubmitAmbiguous("The submit command did not answer.")
        if done.code:
            raise SubmitRejected(done.err)
        return JobId(done.out)

    def find(self, name: str, user: str) -> Command:
        return Command(("find", name, user))

    def read_find(self, done: Completed) -> list[JobReport]:
        if done.code:
            raise Unreachable(done.err)
        return [self.jobs[JobId(word)].report for word in done.out.split()]

    def status(self, jobs) -> Command:
        assert jobs
        return Command(("status", *jobs))

    def read_status(self, done: Completed, jobs) -> Listing:
        if done.code:
            raise Unreachable(done.err)
        found = {} if self.hide else {job: self.jobs[job].report for job in jobs if job in self.jobs}
        self.hide = max(0, self.hide - 1)
        gone = frozenset(jobs) - set(self.jobs) if self.says_gone else frozenset()
        return Listing(found, frozenset(gone))

    def tagged(self, prefix: str) -> Command:
        return Command(("tagged", prefix))

    def read_tagged(self, done: Completed, prefix: str) -> list[JobReport]:
        if done.code:
            raise Unreachable(done.err)
        return [replace(job.report, name=job.name) for job in self.jobs.values() if job.name.startswith(prefix)]

    def accounting(self, jobs) -> Command | None:
        return Command(("accounting", *jobs)) if self.has_accounting else None

    def read_accounting(self, done: Completed, jobs) -> dict[JobId, JobReport]:
        if done.code:
            raise Unreachable(done.err)
        return {job: self.records[job] for job in jobs if job in self.records}

    def cancel(self, jobs) -> list[Command]:
        return [Command(("cancel", *jobs))]

    def read_cancel(self, done: Completed) -> None:
        if done.code:
            raise Unreachable(done.err)

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        return Command(("extend", job, str(walltime.total_seconds())))

    def read_extend(self, done: Completed) -> None:
        if done.timed_out:
            raise Unreachable("The scheduler did not answer in time.")
        if done.code:
            raise Denied(done.err)

    def inspect(self) -> list[Command]:
        return [Command(("inspect",))]

    def read_inspect(self, done) -> list[QueueInfo]:
        if done[0].code:
            raise Unreachable(done[0].err)
        return [QueueInfo("debug", default=True, max_cores=16, max_walltime=timedelta(hours=8))]


@dataclass
class MemoryTransport:
    """Runs the memory cluster's commands and keeps its files."""

    cluster: MemoryCluster

    async def run(self, command: Command, user: str | None = None) -> Completed:
        what, *words = command.argv
        self.cluster.calls.append(what)
        self.cluster.asked_as[what] = user
        down = self.cluster.down or (what == "accounting" and self.cluster.accounting_down)
        if down:
            if what == "submit":
                return Completed(None, timed_out=True)
            return Completed(1, "", "Unable to contact slurm controller (connect failure)")
        return getattr(self, f"_{what}")(words)

    def _submit(self, words: list[str]) -> Completed:
        cluster = self.cluster
        if cluster.refuse:
            return Completed(1, "", cluster.refuse)
        if cluster.lose_submits:
            cluster.lose_submits -= 1
            return Completed(None, timed_out=True)
        cluster.next_id += 1
        job_id = JobId(str(cluster.next_id))
        report = JobReport(job_id, JobState.PENDING, "PENDING", "Priority", user=words[1])
        cluster.jobs[job_id] = Job(report, words[0], words[1])
        if cluster.lose_answer:
            return Completed(None, timed_out=True)
        return Completed(0, job_id)

    def _find(self, words: list[str]) -> Completed:
        return Completed(0, " ".join(job_id for job_id, job in self.cluster.jobs.items() if job.name == words[0]))

    def _status(self, words: list[str]) -> Completed:
        return Completed(0)

    _accounting = _inspect = _tagged = _status

    def _cancel(self, words: list[str]) -> Completed:
        if self.cluster.fail_cancels:
            self.cluster.fail_cancels -= 1
            return Completed(1, "", "Unable to contact slurm controller (connect failure)")
        for word in words:
            if JobId(word) in self.cluster.jobs:
                self.cluster.end(JobState.CANCELLED)
        return Completed(0)

    def _extend(self, words: list[str]) -> Completed:
        if self.cluster.refuse:
            return Completed(1, "", self.cluster.refuse)
        job = self.cluster.jobs[JobId(words[0])]
        job.report = replace(job.report, time_limit=timedelta(seconds=float(words[1])))
        return Completed(0)

    async def remove_directory(self, path: str, user: str) -> None:
        self._check()
        self.cluster.calls.append("remove")
        for word, error in self.cluster.stuck.items():
            if path.endswith(word):
                raise error
        self.cluster.removed.append((path, user))

    async def discard(self, path: str, names: Sequence[str], user: str) -> None:
        self._check()
        self.cluster.calls.append("discard")
        if self.cluster.files_away:
            raise Unreachable("The home directories are not there.")
        gone = tuple(f"{path}/{name}" for name in names)
        for found in list(self.cluster.files):
            if found in gone or found.startswith(tuple(f"{name}/" for name in gone)):
                del self.cluster.files[found]

    async def home(self, user: str) -> str:
        self._check()
        return f"/home/{user}"

    async def make_directory(self, path: str, user: str) -> None:
        self._check()

    async def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        self._check()
        self.cluster.files[path] = data

    async def get(self, path: str, user: str, limit: int = 65536) -> bytes:
        self._check()
        if self.cluster.files_away:
            raise Unreachable("The home directories are not there.")
        try:
            return self.cluster.files[path][:limit]
        except KeyError:
            raise FileMissing(path) from None

    async def tail(self, path: str, user: str, limit: int = 8192) -> bytes:
        return (await self.get(path, user, 10**6))[-limit:]

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.cluster.down:
            raise Unreachable("The login node does not answer.")


@dataclass
class MemoryRoutes:
    """The proxy."""

    routes: dict[str, RouteTarget] = field(default_factory=dict)
    down: bool = False
    blocked: bool = False
    status: int = 200
    published_count: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    uses: dict[str, Use] = field(default_factory=dict)

    def _check(self) -> None:
        if self.down:
            raise Unreachable("The proxy does not answer.")

    async def publish(self, target: RouteTarget) -> None:
        self._check()
        self.published_count += 1
        self.routes[target.path] = target

    async def withdraw(self, path: str) -> None:
        self._check()
        self.routes.pop(path.rstrip("/") + "/", None)

    async def published(self) -> dict[str, str]:
        self._check()
        return {path.rstrip("/"): target.server_id for path, target in self.routes.items()}

    async def probe(self, target: RouteTarget, path: str) -> int:
        self._check()
        if self.blocked:
            raise TunnelError("login1 cannot reach n1:4711: Connection refused")
        return self.status

    async def ask(self, target: RouteTarget, path: str, *, method: str = "GET", deadline: float = 8.0) -> Answer:
        self._check()
        if self.blocked:
            raise TunnelError("login1 cannot reach n1:4711: Connection refused")
        self.asked.append(f"{method} {path}")
        return self.answers.get(path.partition("?")[0], Answer(404))

    async def activity(self) -> dict[str, Use]:
        self._check()
        return dict(self.uses)

    async def revoke_token(self, digest: str) -> None:
        raise NotImplementedError

    async def revoke_all(self, sessions: Mapping[str, datetime]) -> None:
        raise NotImplementedError

    async def revoke(self, session: str) -> None:
        pass

    async def offer(self, server_id: str, key: str) -> None:
        self._check()
        self.keys[server_id] = key

    async def withdraw_offer(self, server_id: str) -> None:
        self._check()
        self.keys.pop(server_id, None)

    async def offers(self) -> dict[str, str]:
        self._check()
        return dict(self.keys)


class MemoryBuilder:
    """Jobs without a site. ``dials_in``: they reach the proxy by themselves. ``jupyter``: they can be told to end, and asked what they do."""

    def __init__(self, *, dials_in: bool = False, jupyter: bool = False) -> None:
        self.dials_in = dials_in
        self.jupyter = jupyter
        self.unfit_words = ""

    def offer_key(self, server: Server) -> str:
        return f"key-of-{server.id}-{server.generation}" if self.dials_in else ""

    def build(self, server: Server, home: str, added: Customisation = NOT_CUSTOMISED) -> JobFiles:
        files = {f"files/{name}": data for name, data in added.files.items()}
        return JobFiles(
            "#!/bin/sh\n", {PROOF: self.proof(server), **files, "secrets.json": self.secrets(server, added)}
        )

    def proof(self, server: Server) -> bytes:
        return proof_document(KEY, server)

    def prove(self, data: bytes) -> Facts:
        return read_proof(KEY, data)

    def unfit(self, facts: Facts) -> str:
        return self.unfit_words

    def secrets(self, server: Server, added: Customisation = NOT_CUSTOMISED) -> bytes:
        return json.dumps({"generation": server.generation, "env": dict(added.secret)}).encode()

    def token(self, server: Server, generation: int) -> str:
        return f"secret-of-{server.id}-{generation}"

    def endpoint(self, server: Server, connection: Connection) -> Endpoint:
        return Endpoint(server.host, connection.port)

    def route(self, server: Server) -> RouteTarget:
        assert server.endpoint
        token = f"{self.token(server, server.generation)}-{server.nonce}"
        return RouteTarget(server.path, server.endpoint, server.user, server.id, authorization=f"token {token}")

    def shutdown_path(self, server: Server) -> str:
        return server.path + "api/shutdown" if self.jupyter else ""

    def jupyter_path(self, server: Server) -> str:
        return server.path + "api/" if self.jupyter else ""

    def ready_path(self, server: Server) -> str:
        return server.path + "api"
