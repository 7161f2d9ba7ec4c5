"""What a job script is made from: the checked values of one job, and the variables that a template sees of them.

The variables carry batchspawner's names where it has one. Empty text stands for "not chosen", so that ``{% if account %}`` reads well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.model import NO_OPTIONS, OptionValue
from batchhub.job.shell import PLAIN, CheckedText, RawText

NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})
DIALECTS = ("slurm", "pbs", "torque", "lsf", "local", "podman", "docker", "kubernetes")
_IN_SECONDS = frozenset({"local", "podman", "docker", "kubernetes"})
"""Whose time limits are plain seconds."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.,:=/@+%&|!*()\[\]<>-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_UNIT = {"KB": 1024.0, "MB": 1.0, "GB": 1 / 1024, "TB": 1 / 1024**2}


class Options:
    """The site's own form fields, as ``options.NAME``. Printed by itself it is the extra directives, as in batchspawner's scripts."""

    __slots__ = ("directives", "fields")

    def __init__(self, fields: Mapping[str, object], directives: tuple[str, ...]) -> None:
        self.fields = dict(fields)
        self.directives = directives

    def __getitem__(self, name: str) -> object:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.directives)

    def __str__(self) -> str:
        return RawText(" ".join(self.directives))


@dataclass(frozen=True, slots=True)
class JobContext:
    """The checked values of one job.

    ``memory_mib`` and ``walltime`` are per job, on one node; ``None`` leaves them to the scheduler. ``gpus`` may be 0. ``options`` are the
    site's own form fields. ``directives``, ``prologue``, ``epilogue`` and ``command`` are the administrator's own text and trusted;
    ``command`` replaces what starts the launcher. ``python`` is the interpreter that runs it on the node (3.6 or newer).
    ``files`` is the directory of the files that are added to it, if any are. ``memory_unit`` is LSF's ``LSF_UNIT_FOR_LIMITS``; empty writes ``4096MB``, which LSF reads since 10.1.0.2.
    """

    job_name: str
    directory: str
    username: str
    homedir: str
    partition: str = ""
    nprocs: int = 1
    memory_mib: int | None = None
    walltime: timedelta | None = None
    gpus: int = 0
    gpu_type: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    host: str = ""
    options: Mapping[str, OptionValue] = field(default_factory=lambda: NO_OPTIONS)
    directives: tuple[str, ...] = ()
    prologue: str = ""
    epilogue: str = ""
    command: str = ""
    python: str = "python3"
    environment: Mapping[str, str] = field(default_factory=lambda: NO_ENVIRONMENT)
    files: str = ""
    memory_unit: str = ""

    def check(self) -> None:
        """Raise BadInput naming the first field that holds what may not reach a script."""
        self._check_names()
        self._check_numbers()
        for name, option in self.options.items():
            self._line(f"options.{name}", str(option))
        for name, value in self.environment.items():
            if not _NAME.fullmatch(name):
                raise BadInput(f"environment: {name[:60]!r} is not the name of a variable.")
            self._line(f"environment {name}", value)
        for name, text in (("prologue", self.prologue), ("epilogue", self.epilogue), ("command", self.command)):
            if _CONTROL_IN_TEXT.search(text):
                raise BadInput(f"{name}: holds a control character (a carriage return?).")
        for text in self.directives:
            self._line("directives", text)

    def _check_names(self) -> None:
        for name in ("partition", "gpu_type", "account", "qos", "reservation", "host", "job_name"):
            value = getattr(self, name)
            self._line(name, value)
            if not PLAIN.fullmatch(value):
                raise BadInput(f"{name}: {value[:60]!r} may hold only letters, digits and _.,:=/@+%-.")
        for name in ("directory", "username", "homedir", "constraint", "python", "files"):
            self._line(name, getattr(self, name))
        if not _CONSTRAINT.fullmatch(self.constraint):
            raise BadInput(f"constraint: {self.constraint[:60]!r} holds a character that no scheduler reads in one.")
        for name in ("directory", "homedir"):
            if not getattr(self, name).startswith("/"):
                raise BadInput(f"{name}: {getattr(self, name)[:60]!r} must be absolute.")

    def _check_numbers(self) -> None:
        for name, number, low, high in (
            ("nprocs", self.nprocs, 1, 100_000),
            ("gpus", self.gpus, 0, 10_000),
            ("memory", 1 if self.memory_mib is None else self.memory_mib, 1, 2**40),
            ("walltime", 1 if self.walltime is None else self.walltime.total_seconds(), 1, 366 * 86400),
        ):
            if not low <= number <= high:
                raise BadInput(f"{name}: {number} is not between {low} and {high}.")

    @staticmethod
    def _line(name: str, value: str) -> None:
        if _CONTROL.search(value):
            raise BadInput(f"{name[:80]}: {value[:60]!r} holds a control character.")
        if len(value) > 4096:
            raise BadInput(f"{name[:80]}: is longer than 4096 characters.")

    def variables(self, dialect: str) -> dict[str, object]:
        """What a template of this dialect sees; ``docs/templates.md`` describes each."""
        seconds = None if self.walltime is None else max(1, -int(-self.walltime.total_seconds() // 1))
        launcher = shlex.join((self.python, "-I", self.directory.rstrip("/") + "/launch.py"))
        gres = f"gpu:{self.gpu_type}:{self.gpus}" if self.gpu_type else f"gpu:{self.gpus}"
        return {
            "account": self.account,
            "cmd": RawText(self.command or launcher),
            "constraint": CheckedText(self.constraint),
            "directory": self.directory,
            "environment": dict(self.environment),
            "epilogue": RawText(self.epilogue),
            "files": self.files,
            "gpu_type": self.gpu_type,
            "gres": gres if self.gpus else "",
            "homedir": self.homedir,
            "host": self.host,
            "job_name": self.job_name,
            "memory": "" if self.memory_mib is None else self._memory(dialect, self.memory_mib),
            "memory_mib": "" if self.memory_mib is None else self.memory_mib,
            "ngpus": self.gpus,
            "nodes": 1,
            "nprocs": self.nprocs,
            "options": Options(self.options, self.directives),
            "partition": self.partition,
            "prologue": RawText(self.prologue),
            "python": self.python,
            "qos": self.qos,
            "queue": self.partition,
            "reservation": self.reservation,
            "runtime": "" if seconds is None else _runtime(dialect, seconds),
            "runtime_seconds": "" if seconds is None else seconds,
            "username": self.username,
        }

    def _memory(self, dialect: str, mib: int) -> str:
        if dialect == "slurm":
            return f"{mib}M"
        if dialect in {"pbs", "torque"}:
            return f"{mib}mb"
        if dialect in {"podman", "docker"}:
            return f"{mib}m"
        if dialect == "kubernetes":
            return f"{mib}Mi"
        if dialect != "lsf":
            return str(mib)
        if not self.memory_unit:
            return f"{mib}MB"
        if self.memory_unit not in _UNIT:
            raise ConfigError(f"memory_unit {self.memory_unit[:20]!r} must be KB, MB, GB, TB or empty.")
        return str(max(1, -int(-mib * _UNIT[self.memory_unit] // 1)))


def _runtime(dialect: str, seconds: int) -> str:
    """``HH:MM:SS`` for Slurm and PBS (hours may exceed 24), minutes rounded up for LSF, seconds for the local queue, containers and pods."""
    if dialect == "lsf":
        return str(-(-seconds // 60))
    if dialect in _IN_SECONDS:
        return str(seconds)
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
