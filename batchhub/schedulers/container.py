"""Containers on one machine: Docker and podman by their command lines. An engine has no queue; what is asked for starts at once.

The job's script runs inside the container, from its directory in the person's home, which the template mounts. Its ``#CONTAINER`` lines
are the engine's own options (docker-create(1), podman-create(1)) and two of ours, ``--image`` and ``--walltime``.

Whoever may talk to an engine that runs as root is root on its machine. So people never do: the service's account runs every command,
and the container runs as the person's own uid and groups, looked up on that machine. With ``rootless`` podman the engine is one account's
own, and serves that account alone, as no account sees another's containers.

What each answer means was recorded from podman 4.3 and Docker 20.10 (``tests/recordings/podman``, ``docker``); reading is in
:mod:`batchhub.schedulers.container_read`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from batchhub.core.errors import BadInput, ConfigError, Conflict, Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobReport, Listing, QueueInfo
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers import base, container_read
from batchhub.schedulers.container_read import ACCOUNT, JOB, NOTHING_MADE, REFUSED, WALLTIME

FORMAT = (
    '{"id":{{json .ID}},"name":{{json .Name}},"created":{{json .Created}},"state":{{json .State}},'
    '"labels":{{json .Config.Labels}},"networks":{{json .NetworkSettings.Networks}}}'
)
"""One line of JSON a container, in field names that both engines' templates know."""

_ID = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,399}")
_PROGRAM = re.compile(r"[A-Za-z0-9_./+-]{1,400}")
_URL = re.compile(r"(?:unix|tcp|ssh|https?)://[A-Za-z0-9_./:@%+-]{1,400}")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?")
_DIRECTIVE = re.compile(r"#CONTAINER(?:[ \t]+(.*))?")
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(?:=.*)?", re.DOTALL)
_OURS = frozenset(
    [
        "--attach",
        "--cidfile",
        "--detach",
        "--entrypoint",
        "--interactive",
        "--name",
        "--pod",
        "--replace",
        "--restart",
        "--rm",
        "--rootfs",
        "--tty",
        "--user",
        "--userns",
        "--workdir",
    ]
)
"""Options that would make the container another than the one BatchHub follows, or somebody else's."""

_UNSET = ("DOCKER_*", "CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "BUILDAH_*", "PODMAN_*")
_KEEP = ("DOCKER_CONFIG",)
KILL_AFTER = 30
"""Seconds between the signals TERM and KILL at the end of the walltime."""

# $1 the container's name, $2 the account, $3 how long ended ones are kept; the rest are options, image and command.
_SUBMIT = """name=$1 account=$2 keep=$3; shift 3
refuse() { printf '%s%s\\n' '@REFUSED@' "$1" >&2; exit 77; }
@IDENTITY@
p container prune --force --filter label=@JOB@ --filter "until=$keep" >/dev/null 2>&1
# A submit that was cut off may have left a container that never started; the name is taken as long as it is there.
case $(p container inspect --format '{{.State.Status}}' "$name" 2>/dev/null) in created|configured|initialized) p rm "$name" >/dev/null 2>&1 ;; esac
id=$(p create "$@"); code=$?
if [ "$code" = 0 ]; then
    p start "$id" >/dev/null; code=$?
    if [ "$code" = 0 ]; then printf '%s\\n' "$id"; exit 0; fi
    p rm "$id" >/dev/null 2>&1
fi
case $(LC_ALL=C p container inspect --format x "$name" 2>&1) in *"o such container"*) echo '@NOTHING@' >&2 ;; esac
exit "$code"
"""
# Group 0 is left out: what belongs to root's group on the machine is not for containers.
_AS_PERSON = """uid=$(id -u -- "$account") && gid=$(id -g -- "$account") && groups=$(id -G -- "$account") || refuse "the machine of the containers does not know the account $account"
[ "$uid" -gt 0 ] && [ "$gid" -gt 0 ] || refuse "the account $account is root on the machine of the containers"
set -- --user="$uid:$gid" "$@"
for group in $groups; do [ "$group" = 0 ] || set -- --group-add="$group" "$@"; done"""
_AS_ITSELF = """[ "$(id -un)" = "$account" ] || refuse "a rootless engine runs containers for its own account alone, $(id -un), not for $account"
[ "$(id -u)" -gt 0 ] || refuse "a rootless engine does not run as root"
set -- --userns=keep-id "$@\""""
_TAGGED = """ids=$(p ps --all --quiet --no-trunc --filter label=@JOB@) || exit $?
echo @LISTED@
[ -z "$ids" ] || p container inspect --format "$1" $ids
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What both engines share; :class:`Podman` and :class:`Docker` are the dialects.

    ``image`` is for jobs whose template or profile names none. ``program`` is the engine's command (empty: its usual name), ``engine`` where it
    listens, if not at its usual place (``unix:///run/docker.sock``). ``sudo``: the service's account runs it by ``sudo -n``.
    ``rootless`` (podman): the engine is the service account's own and serves nobody else. ``host`` is what the proxy dials for a container on
    the machine's own network: that machine, as seen from where the tunnel ends. ``keep_hours``: ended containers are removed when they were
    made that long ago; until then their state can be asked for. ``stop_seconds`` pass between TERM and KILL when a server is stopped: the launcher needs 20 for an application
    that does not end, and the epilogue comes then.
    The deadlines are in seconds, for each command.
    """

    FLAVOUR: ClassVar[str] = ""
    ENGINE_OPTION: ClassVar[str] = ""
    SIZE_FORMAT: ClassVar[str] = ""

    image: str = ""
    program: str = ""
    engine: str = ""
    sudo: bool = False
    rootless: bool = False
    host: str = "127.0.0.1"
    keep_hours: int = 168
    stop_seconds: int = 30
    status_deadline: float = 30.0
    submit_deadline: float = 60.0

    def __post_init__(self) -> None:
        for name, value, pattern in (
            ("image", self.image, _IMAGE),
            ("program", self.program, _PROGRAM),
            ("engine", self.engine, _URL),
        ):
            if value and (not pattern.fullmatch(value) or value.startswith("-")):
                raise ConfigError(f"scheduler_options.{name}: {value[:80]!r} is not the {_WHAT[name]}.")
        if not container_read.is_host(self.host):
            raise ConfigError(f"scheduler_options.host: {self.host[:80]!r} is neither an address nor a host's name.")
        if self.rootless and (self.FLAVOUR != "podman" or self.sudo or self.engine):
            raise ConfigError(
                "scheduler_options.rootless: only podman itself runs containers as an account of its own: without sudo, without engine."
            )
        if not 1 <= self.keep_hours <= 24 * 366 or not 0 <= self.stop_seconds <= 600:
            raise ConfigError("scheduler_options: keep_hours is 1 to 8784, stop_seconds 0 to 600.")
        if min(self.status_deadline, self.submit_deadline) <= 0:
            raise ConfigError("scheduler_options: deadlines are seconds and must be above 0.")

    @property
    def name(self) -> str:
        """``podman`` or ``docker``."""
        return self.FLAVOUR

    # ------------------------------------------------ commands

    def _argv(self, *words: str) -> tuple[str, ...]:
        sudo = ("sudo", "-n", "--") if self.sudo else ()
        place = (self.ENGINE_OPTION.format(self.engine),) if self.engine else ()
        return (*sudo, self.program or self.FLAVOUR, *place, *words)

    def _command(self, *argv: str, deadline: float = 0.0) -> Command:
        return Command(
            argv,
            env=base.PLAIN_ENV,
            unset=_UNSET,
            keep=_KEEP,
            deadline=deadline or self.status_deadline,
            as_service=True,
        )

    def _script(self, text: str, *words: str, deadline: float = 0.0) -> Command:
        """A shell script in which ``p`` is the engine's command. Every value is an argument of its own, none is part of the text."""
        for place, value in (
            ("@REFUSED@", REFUSED),
            ("@NOTHING@", NOTHING_MADE),
            ("@LISTED@", container_read.LISTED),
            ("@IDENTITY@", _AS_ITSELF if self.rootless else _AS_PERSON),
            ("@JOB@", JOB),
        ):
            text = text.replace(place, value)
        whole = f'p() {{ {shlex.join(self._argv())} "$@"; }}\n{text}'
        return self._command("/bin/sh", "-c", whole, "batchhub", *words, deadline=deadline)

    def submit(self, request: JobRequest) -> Command:
        """``create``, then ``start``: a container that cannot be started is removed again. Raises BadInput for a directive that may not be."""
        options, image, walltime = _directives(request.script)
        image = image or self.image
        if not image:
            raise BadInput(
                "No image is named: the administrator sets scheduler_options.image, or the template's #CONTAINER --image=."
            )
        if not _IMAGE.fullmatch(image):
            raise BadInput(f"image: {image[:80]!r} is not the name of a container image.")
        if not _NAME.fullmatch(request.name) or not _ACCOUNT.fullmatch(request.user):
            raise BadInput(f"{request.name[:60]!r} of {request.user[:60]!r} cannot be a container's name and account.")
        if set(request.directory) & set(',:"\n'):
            raise BadInput(
                f"directory: {request.directory[:80]!r} cannot be mounted: it holds a comma, colon, quote or line break."
            )
        limit = ("-s", "TERM", "-k", str(KILL_AFTER), str(walltime)) if walltime else ("0",)
        labels = {JOB: request.name, ACCOUNT: request.user, **({WALLTIME: str(walltime)} if walltime else {})}
        return self._script(
            _SUBMIT,
            request.name,
            request.user,
            f"{self.keep_hours}h",
            *options,
            f"--name={request.name}",
            *(f"--label={key}={value}" for key, value in labels.items()),
            # As the first process of the container, timeout(1) cannot be killed by what it is to end.
            "--entrypoint=timeout",
            # Not the job's directory: an engine makes one that is missing, as root.
            "--workdir=/",
            image,
            *limit,
            "/bin/bash",
            f"{request.directory}/job.sh",
            deadline=self.submit_deadline,
        )

    def read_submit(self, done: Completed) -> JobId:
        """The new container's whole id. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        base.require_command(done, self.program or self.FLAVOUR)
        said = container_read.words(done, self.FLAVOUR)
        if done.code not in {0, None} and not done.truncated:
            lines = done.err.splitlines()
            refused = [line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED)]
            if refused:
                raise SubmitRejected(base.shorten(refused[-1]))
            if container_read.kept_out(done.err):
                raise SubmitRejected(
                    f"The hub's account may not talk to {self.FLAVOUR}; please tell the hub's administrator: {said}"
                )
            if NOTHING_MADE in lines:
                raise SubmitRejected(said)
        found = done.out.strip()
        if done.code == 0 and not done.truncated and _ID.fullmatch(found):
            return JobId(found)
        raise SubmitAmbiguous(f"{self.FLAVOUR} did not say whether it runs the container: {said}")

    def find(self, name: str, user: str) -> Command:
        """Names are unique in an engine, so the one of this name is looked at."""
        del user
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name[:60]!r} is not a container's name.")
        return self._command(*self._argv("container", "inspect", "--format", FORMAT, name))

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """It, if it was ever started: one that was only made is what a refused submit left. Raises Unreachable."""
        rows = container_read.inspected(done, self.FLAVOUR)
        if rows.bad or not (rows.found or rows.gone):
            raise Unreachable(f"{self.FLAVOUR}'s answer cannot be read: {container_read.words(done, self.FLAVOUR)}")
        reports = [container_read.report(row, self.FLAVOUR, self.host) for row in rows.found]
        if None in reports:
            raise Unreachable(f"{self.FLAVOUR} described a container in a way that cannot be read.")
        return tuple(report for report in reports if report is not None and report.user and report.started is not None)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``inspect`` of all: it alone tells the exit status and whether memory ran out. Raises BadInput for no ids."""
        return self._command(*self._argv("container", "inspect", "--format", FORMAT, *base.check_ids(jobs, _ID)))

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen. An id about which nothing at all was said is not missing: the answer was not whole. Raises Unreachable."""
        rows = container_read.inspected(done, self.FLAVOUR)
        asked, seen, bad = set(jobs), {}, list(rows.bad)
        for row in rows.found:
            report = container_read.report(row, self.FLAVOUR, self.host)
            if report is None:
                base.note_bad_row(bad, json.dumps(row))
            elif report.id in asked:
                seen[report.id] = report
        gone = frozenset(job for job in asked if job in rows.gone and job not in seen)
        if not seen and not gone:
            raise Unreachable(
                f"{self.FLAVOUR}'s answer cannot be read: {base.first_line(done.out) or 'it said nothing'}"
            )
        return Listing(seen, gone, tuple(bad), frozenset(asked - seen.keys() - gone))

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """There are no records apart: an ended container can be looked at until it is removed."""
        base.check_ids(jobs, _ID)
        return None

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The same rows as in a status answer. Raises Unreachable."""
        return self.read_status(done, jobs).jobs

    def tagged(self, prefix: str) -> Command:
        """Those with our label, looked at one by one as in :meth:`status`."""
        del prefix
        return self._script(_TAGGED, FORMAT)

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """The live ones. One that ended and was removed in between is no error. Raises Unreachable."""
        first, _, rest = done.out.partition("\n")
        if first != container_read.LISTED:
            base.require_answer(done, self.program or self.FLAVOUR)
            raise Unreachable(f"{self.FLAVOUR} did not list containers: {container_read.words(done, self.FLAVOUR)}")
        rows = container_read.inspected(
            Completed(done.code, rest, done.err, done.timed_out, done.truncated), self.FLAVOUR
        )
        reports = [container_read.report(row, self.FLAVOUR, self.host) for row in rows.found]
        return tuple(
            report
            for report in reports
            if report is not None and report.name.startswith(prefix) and report.user and not report.state.terminal
        )

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """``stop``: TERM, and KILL after ``stop_seconds``; it answers when it has ended. One at a time: podman stops none if it does not know one."""
        stop = ("container", "stop", "-t", str(self.stop_seconds))
        deadline = self.status_deadline + self.stop_seconds
        return tuple(self._command(*self._argv(*stop, job), deadline=deadline) for job in base.check_ids(jobs, _ID))

    def read_cancel(self, done: Completed) -> None:
        """Return if they have ended or are unknown. Raises Unreachable or Denied."""
        base.require_answer(done, self.program or self.FLAVOUR)
        if done.code == 0:
            return
        said = container_read.words(done, self.FLAVOUR)
        if container_read.denied(done.err):
            raise Denied(f"{self.FLAVOUR} does not let the hub's account stop it: {said}")
        lines = container_read.complaints(done.err)
        if not lines or not all(container_read.unknown_in(line) or container_read.is_over(line) for line in lines):
            raise Unreachable(f"{self.FLAVOUR} did not stop the container: {said}")

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """Not to be had: the time is the container's own first process's."""
        del job, walltime
        return None

    def read_extend(self, done: Completed) -> None:
        """Never asked."""
        del done
        raise Conflict("A container's time cannot be changed.")

    def inspect(self) -> Sequence[Command]:
        """Ask for the machine's size."""
        return (self._command(*self._argv("info", "--format", self.SIZE_FORMAT)),)

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """One queue of the engine's name: nobody may ask for more than the machine has. Raises Unreachable."""
        if len(done) != 1:
            raise Unreachable(f"{self.FLAVOUR} was asked one question.")
        base.require_answer(done[0], self.program or self.FLAVOUR)
        numbers = [base.parse_int(word) for word in done[0].out.split()]
        cores, memory = numbers if len(numbers) == 2 and done[0].code == 0 else (None, None)
        if not cores or not memory:
            raise Unreachable(
                f"{self.FLAVOUR} did not tell its machine's size: {container_read.words(done[0], self.FLAVOUR)}"
            )
        return (QueueInfo(self.FLAVOUR, default=True, max_cores=cores, max_memory_mib=memory // 2**20, nodes=1),)


_WHAT = {
    "image": "name of a container image",
    "program": "name or path of a program",
    "engine": "URL of an engine (unix:///run/docker.sock)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Podman(Container):
    """podman 4 or newer, without a daemon."""

    FLAVOUR: ClassVar[str] = "podman"
    ENGINE_OPTION: ClassVar[str] = "--url={}"
    SIZE_FORMAT: ClassVar[str] = "{{.Host.CPUs}} {{.Host.MemTotal}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker(Container):
    """Docker 20.10 or newer."""

    FLAVOUR: ClassVar[str] = "docker"
    ENGINE_OPTION: ClassVar[str] = "--host={}"
    SIZE_FORMAT: ClassVar[str] = "{{.NCPU}} {{.MemTotal}}"


def _directives(script: str) -> tuple[list[str], str, int]:
    """The engine's options, the image and the walltime in seconds (0: none) of a script's first lines. Raises BadInput.

    An option and its value are one word: a word without ``--`` before the image would be taken for the image.
    """
    options: list[str] = []
    image, walltime = "", 0
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        found = _DIRECTIVE.fullmatch(line)
        if found is None:
            continue
        for word in _words(found[1] or ""):
            name, _, value = word.partition("=")
            if not _OPTION.fullmatch(word) or name in _OURS:
                why = "BatchHub sets it" if name in _OURS else "options are written --option=value"
                raise BadInput(f"#CONTAINER {word[:80]!r}: {why}.")
            if name == "--image":
                image = value
            elif name == "--walltime":
                walltime = _seconds(value)
            else:
                options.append(word)
    return options, image, walltime


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadInput(f"#CONTAINER {text[:80]!r}: its quotes do not balance.") from error


def _seconds(text: str) -> int:
    number = base.parse_int(text)
    if not number or number > 366 * 86400:
        raise BadInput(f"#CONTAINER --walltime={text[:40]!r}: seconds are expected, at most a year.")
    return number
