"""The five schedulers that fakesched speaks as, and what differs between them for a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchhub.core.ports import Dialect
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm


@dataclass(frozen=True, kw_only=True)
class Site:
    """``records`` is the command that tells how jobs ended, empty where there is none. ``options`` are the dialect's."""

    name: str
    bin: str
    dialect: type[Any]
    submit: str
    status: str
    cancel: str
    find: str
    records: str = ""
    fake: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, bin_dir: str, **options: Any) -> Dialect:
        """The dialect, with commands from there. Deadlines are long: a slow machine is no fault."""
        patience = {"status_deadline": 120.0, "submit_deadline": 120.0}
        made: Dialect = self.dialect(bin_dir=bin_dir, **{**patience, **self.options, **options})
        return made

    def __str__(self) -> str:
        return self.name


_PBS: dict[str, Any] = {"bin": "pbs", "submit": "qsub", "status": "qstat", "cancel": "qdel", "find": "qselect"}
_LSF: dict[str, Any] = {"bin": "lsf", "dialect": Lsf, "submit": "bsub", "status": "bjobs", "cancel": "bkill"}

SLURM = Site(
    name="slurm",
    bin="slurm",
    dialect=Slurm,
    submit="sbatch",
    status="squeue",
    cancel="scancel",
    find="squeue",
    records="sacct",
)
PBS = Site(name="pbs", dialect=Pbs, records="qstat", **_PBS)
TORQUE = Site(name="torque", dialect=Torque, fake={"torque": True}, **_PBS)
LSF = Site(name="lsf", find="bjobs", records="bhist", **_LSF)
OPENLAVA = Site(
    name="openlava",
    find="bjobs",
    records="bhist",
    fake={"lsf": "openlava"},
    options={"flavour": "openlava"},
    **_LSF,
)

THREE = (SLURM, PBS, LSF)
ALL = (SLURM, PBS, TORQUE, LSF, OPENLAVA)
