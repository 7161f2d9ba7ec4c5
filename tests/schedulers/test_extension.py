"""More time, by every dialect's command."""

from datetime import timedelta

import pytest

from batchhub.core.errors import BadInput, CommandNotFound, Conflict, Denied, Unreachable
from batchhub.core.model import JobId
from batchhub.core.ports import Completed, Dialect
from batchhub.schedulers.local import Local
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm

SPAN = timedelta(hours=26, minutes=3, seconds=20)


@pytest.mark.parametrize(
    ("dialect", "job", "argv"),
    [
        (Slurm(), "8;east", ("scontrol", "--clusters=east", "update", "JobId=8", "TimeLimit=1564")),
        (
            Slurm(bin_dir="/s", cluster="e"),
            "13_1",
            ("/s/scontrol", "--clusters=e", "update", "JobId=13_1", "TimeLimit=1564"),
        ),
        (Pbs(), "9.head", ("qalter", "-l", "walltime=26:03:20", "9.head")),
        (Torque(bin_dir="/t"), "9.head", ("/t/qalter", "-l", "walltime=26:03:20", "9.head")),
        (Lsf(), "117", ("bmod", "-W", "1564", "117")),
        (Local(), "abcd-3", ("python3", "-m", "batchhub.localqueue", "extend", "--walltime=93800", "abcd-3")),
    ],
)
def test_the_command(dialect: Dialect, job: str, argv: tuple[str, ...]) -> None:
    command = dialect.extend(JobId(job), SPAN)
    assert command is not None
    assert command.argv == argv


DIALECTS: tuple[Dialect, ...] = (Slurm(), Pbs(), Torque(), Lsf(), Local())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("job", ["0", "x", "1 2", "-1", "1;rm"])
def test_what_is_no_id(dialect: Dialect, job: str) -> None:
    if dialect.name in {"slurm", "pbs", "torque"} and job in {"0", "1;rm"}:
        return  # forms that these have
    with pytest.raises(BadInput):
        dialect.extend(JobId(job), SPAN)


@pytest.mark.parametrize("span", [timedelta(0), timedelta(days=400), -SPAN])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_what_is_no_time(dialect: Dialect, span: timedelta) -> None:
    job = {"lsf": "1", "local": "abcd-1", "slurm": "1"}.get(dialect.name, "1.head")
    with pytest.raises(BadInput):
        dialect.extend(JobId(job), span)


@pytest.mark.parametrize(
    ("dialect", "code", "out", "err", "error", "words"),
    [
        (Slurm(), 0, "", "", None, ""),
        (
            Slurm(),
            1,
            "",
            "Access/permission denied for job 8\n",
            Denied,
            "Slurm does not permit it: Access/permission denied for job 8",
        ),
        (Slurm(), 1, "", "Invalid user id for job 39", Denied, "Invalid user id"),
        (Slurm(), 1, "", "Requested time limit is invalid (missing or exceeds some limit)", Denied, "time limit"),
        (Slurm(), 1, "", "Job has already finished for job 12", Conflict, "as ended"),
        (Slurm(), 1, "", "Invalid job id specified for job 9", Conflict, "as ended"),
        (Slurm(), 1, "", "Unable to contact slurm controller (connect failure)", Unreachable, "Unable to contact"),
        (Slurm(), 127, "", "sh: 1: exec: scontrol: not found", CommandNotFound, "scontrol"),
        (Pbs(), 0, "", "", None, ""),
        (
            Pbs(),
            159,
            "",
            "qalter: Unauthorized Request  9.head",
            Denied,
            "PBS does not permit it: Unauthorized Request  9.head",
        ),
        (Pbs(), 188, "", "qalter: Job violates queue and/or server resource limits 9.head", Denied, "violates"),
        (Pbs(), 153, "", "qalter: Unknown Job Id 9.head", Conflict, "as ended"),
        (Pbs(), 35, "", "qalter: Job has finished 9.head", Conflict, "as ended"),
        (Pbs(), 255, "", "qalter: cannot connect to server head (errno=15010)", Unreachable, "cannot connect"),
        (Torque(), 159, "", "qalter: Unauthorized Request  MSG=x 9.head", Denied, "Unauthorized"),
        (Lsf(), 0, "Parameters of job <117> are being changed\n", "", None, ""),
        (
            Lsf(),
            255,
            "",
            "Job parameters cannot be changed now; non-repetitive job is running. Job not modified.",
            Denied,
            "LSF does not permit it: Job parameters",
        ),
        (Lsf(), 255, "", "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not modified.", Denied, "hard limit"),
        (Lsf(), 255, "", "User permission denied. Job not modified.", Denied, "permission denied"),
        (Lsf(), 255, "", "99999: No matching job found. Job not modified.", Conflict, "as ended"),
        (Lsf(), 255, "", "Connection refused by server", Unreachable, "refused"),
        (Local(), 0, '{"id": "a", "done": "extended"}', "", None, ""),
        (Local(), 0, '{"id": "a", "done": "denied"}', "", Denied, "owner"),
        (Local(), 0, '{"id": "a", "done": "less"}', "", Denied, "that much"),
        (Local(), 0, '{"id": "a", "done": "over"}', "", Conflict, "as ended"),
        (Local(), 0, '{"id": "a", "done": "foreign"}', "", Unreachable, "did not"),
        (Local(), 0, "", "", Unreachable, "did not"),
        (Local(), 3, "", "localqueue: the spool x cannot be used", Unreachable, "cannot be used"),
    ],
)
def test_the_answer(  # noqa: PLR0917 - a table
    dialect: Dialect, code: int, out: str, err: str, error: type[Exception] | None, words: str
) -> None:
    if error is None:
        dialect.read_extend(Completed(code, out, err))
        return
    with pytest.raises(error, match=words) as caught:
        dialect.read_extend(Completed(code, out, err))
    assert type(caught.value) is error


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_answer_is_none(dialect: Dialect) -> None:
    for done in (Completed(None, timed_out=True), Completed(None), Completed(1), Completed(0, truncated=True)):
        with pytest.raises(Unreachable):
            dialect.read_extend(done)
