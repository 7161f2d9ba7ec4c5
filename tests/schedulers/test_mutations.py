"""What a damaged answer may do: nothing. Each dialect's good answer is cut, spoiled or added to at random.

A job that lives in the whole answer must never be called gone or ended in the damaged one, and nothing but the errors that the Protocol
names may come out.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.core.errors import CommandNotFound, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobState, Listing
from batchhub.core.ports import Completed, Dialect
from batchhub.schedulers.container import Docker, Podman
from batchhub.schedulers.kubernetes import Kubernetes
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.lsf_read import FIELDS
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm


def squeue(number: str, state: str, nodes: str = "n[07-08]") -> str:
    cells = (
        number,
        state,
        number,
        "al",
        "cpu",
        nodes,
        "n07",
        "1795381614",
        "N/A",
        "1795381600",
        "9:50",
        "10:00",
        "100",
        "None",
    )
    return "\x1f".join(cells) + "\n"  # fmt: skip


def sacct(number: str, state: str) -> str:
    cells = (
        number,
        state,
        number,
        "0:0",
        "al",
        "cpu",
        "1795381600",
        "1795381614",
        "Unknown",
        "00:10:00",
        "n07",
        "None",
    )
    return "\x1f".join(cells) + "\n"


def pbs(number: str, state: str) -> str:
    return (
        f'        "{number}.srv":{{\n            "Job_Name":"bh-x",\n            "job_state":"{state}",\n            "substate":42,\n'
        f'            "exec_host":"n07/0",\n            "comment":"Job run at Sun Nov 22",\n            "Variable_List":{{\n'
        f'                "PBS_O_HOME":"/home/al"\n            }}\n        }}'
    )


def qstat(*records: str) -> str:
    members = ",\n".join(records)
    return f'{{\n    "timestamp":1795380555,\n    "Jobs":{{\n{members}\n    }}\n}}\n'


def torque(number: str, state: str) -> str:
    return (
        f"<Job><Job_Id>{number}.srv</Job_Id><Job_Name>bh-x</Job_Name><job_state>{state}</job_state>"
        "<exec_host>n07/0</exec_host><ctime>1430816092</ctime></Job>"
    )


def lsf(number: str, state: str) -> str:
    given = {"jobid": number, "jobindex": "0", "stat": state, "user": "al", "exec_host": "2*n07:n08"}
    return "^".join(given.get(name, "-") for name in FIELDS) + "\n"


def lava(number: str, state: str) -> str:
    return f"{number}     al      {state}   normal     head        n07:n07     bh-x       Nov 22 20:58\n"


def lsf_json(number: str, state: str) -> str:
    return f'{{"JOBID":"{number}","JOBINDEX":"0","STAT":"{state}","USER":"al","EXEC_HOST":"n07"}}'


BOX = {"1234": "a" * 64, "987": "b" * 64, "55": "c" * 64}


def box(number: str, state: str) -> str:
    return (
        f'{{"id":"{BOX[number]}","name":"/bh-x","created":"2026-11-22T20:58:10.123456789Z","state":{{"Status":"{state}","OOMKilled":false,'
        f'"ExitCode":0,"Error":"","StartedAt":"2026-11-22T20:58:11Z","FinishedAt":"0001-01-01T00:00:00Z"}},'
        f'"labels":{{"batchhub.account":"al","batchhub.job":"bh-x"}},"networks":{{"host":{{"IPAddress":""}}}}}}\n'
    )


def pod(number: str, phase: str) -> str:
    return (
        f'{{"metadata":{{"name":"bh-{number}","annotations":{{"batchhub/account":"al"}}}},"spec":{{"nodeName":"n7"}},'
        f'"status":{{"phase":"{phase}","podIP":"10.1.2.3","startTime":"2026-11-22T20:58:10Z"}}}}'
    )


def pods(*rows: str) -> str:
    return f'{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"12"}},"items":[{",".join(rows)}]}}\n'


@dataclass(frozen=True)
class Case:
    """An answer about 1234 and 987, which live, and 55, which has ended."""

    dialect: Dialect
    jobs: tuple[str, str, str]
    out: str
    err: str = ""
    code: int = 0


CASES = {
    "slurm": Case(Slurm(), ("1234", "987", "55"), squeue("1234", "RUNNING") + squeue("55", "COMPLETED") + squeue("987", "PENDING", "")),
    "pbs": Case(Pbs(), ("1234.srv", "987.srv", "55.srv"), qstat(pbs("1234", "R"), pbs("987", "Q")),
                "qstat: Unknown Job Id 5512.srv\nqstat: 55.srv Job has finished, use -x or -H to obtain historical job information\n", 35),
    "pbs of 19": Case(Pbs(), ("1234.srv", "987.srv", "55.srv"),
                      qstat(pbs("1234", "R").replace("/home/al", '/home/"al\\b'), pbs("55", "F"), pbs("987", "H"))),
    "torque": Case(Torque(), ("1234.srv", "987.srv", "55.srv"),
                   f"<Data>{torque('1234', 'R')}{torque('55', 'C')}{torque('987', 'Q')}</Data>\n", "qstat: Unknown Job Id Error 12345.srv\n", 153),
    "lsf": Case(Lsf(), ("1234", "987", "55"), lsf("1234", "RUN") + lsf("55", "DONE") + lsf("987", "PEND"), "Job <12> is not found\n", 255),
    "lsf in JSON": Case(Lsf(), ("1234", "987", "55"), '{"COMMAND":"bjobs","JOBS":3,"RECORDS":['
                        + ",".join((lsf_json("1234", "RUN"), lsf_json("55", "DONE"), lsf_json("987", "PEND"))) + "]}\n"),
    "openlava": Case(Lsf(flavour="openlava"), ("1234", "987", "55"), lava("1234", "RUN") + lava("55", "EXIT") + lava("987", "PEND"),
                     "Job <12345> is not found\n", 255),
    "podman": Case(Podman(), (BOX["1234"], BOX["987"], BOX["55"]), box("1234", "running") + box("55", "exited") + box("987", "paused")),
    "docker": Case(Docker(), (BOX["1234"], BOX["987"], BOX["55"]), box("1234", "running") + box("987", "restarting"),
                   f"Error response from daemon: No such container: {BOX['55']}\n", 1),
    "kubernetes": Case(Kubernetes(), ("bh-1234", "bh-987", "bh-55"), pods(pod("1234", "Running"), pod("55", "Succeeded"), pod("987", "Pending"))),
}  # fmt: skip

_LETTERS = st.text(
    alphabet=st.characters(codec="utf-8") | st.sampled_from('\x00\x1f\x1e^|",{}[]<>:=*\r\n\t �0129RUNQFC'), max_size=20
)


@st.composite
def _damaged(draw: st.DrawFn, whole: Completed) -> Completed:
    out, err = whole.out, whole.err
    kind = draw(
        st.sampled_from(["cut", "head lost", "inserted", "row", "crlf", "nul", "stderr cut", "stderr row", "code"])
    )
    at = draw(st.integers(0, len(out)))
    match kind:
        case "cut":
            out = out[:at]
        case "head lost":
            out = out[at:]
        case "inserted":
            out = out[:at] + draw(_LETTERS) + out[at:]
        case "row":
            lines = out.splitlines(keepends=True)
            lines.insert(draw(st.integers(0, len(lines))), draw(_LETTERS).replace("\n", " ") + "\n")
            out = "".join(lines)
        case "crlf":
            out, err = out.replace("\n", "\r\n"), err.replace("\n", "\r\n")
        case "nul":
            out = out[:at] + "\x00" + out[at:]
        case "stderr cut":
            err = err[: draw(st.integers(0, len(err)))]
        case "stderr row":
            err += draw(_LETTERS) + "\n"
        case "code":
            return replace(whole, code=draw(st.integers(0, 255)))
    return replace(whole, out=out, err=err)


@pytest.mark.parametrize("name", CASES)
def test_the_whole_answer(name: str) -> None:
    case = CASES[name]
    listing = case.dialect.read_status(Completed(case.code, case.out, case.err), [JobId(job) for job in case.jobs])
    assert not listing.jobs[JobId(case.jobs[0])].state.terminal
    assert not listing.jobs[JobId(case.jobs[1])].state.terminal
    over = JobId(case.jobs[2])
    assert over in listing.gone or listing.jobs[over].state.terminal
    assert not listing.bad_rows
    assert not listing.unread


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(max_examples=200)
def test_damage_ends_no_job(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    jobs = [JobId(job) for job in case.jobs]
    done = data.draw(_damaged(Completed(case.code, case.out, case.err)))
    listing = Listing({})
    with contextlib.suppress(Unreachable):
        listing = case.dialect.read_status(done, jobs)
    for job in jobs[:2]:
        assert job not in listing.gone
        assert job not in listing.jobs or not listing.jobs[job].state.terminal
    assert not listing.unread & (listing.gone | listing.jobs.keys())
    assert len(listing.bad_rows) <= 5


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_damage_records_no_end(name: str, data: st.DataObject) -> None:
    """Accounting's answers are of the same make, but for Slurm and LSF."""
    case = CASES[name]
    jobs = [JobId(job) for job in case.jobs]
    done = Completed(case.code, case.out, case.err)
    if name == "slurm":
        done = Completed(0, sacct("1234", "RUNNING") + sacct("55", "COMPLETED") + sacct("987", "PENDING"))
    elif isinstance(case.dialect, Lsf):
        stories = (
            f"Job <{job}>, User <al>, Project <p>, Status <{state}>, Queue <q>, Command <x>\n"
            "Sun Nov 22 20:58:10: Submitted from host <head>, CWD </home/al>;\nSun Nov 22 20:59:02: Started on <n07>;\n" + end
            for job, state, end in (("1234", "RUN", ""), ("55", "DONE", "Sun Nov 22 20:59:02: Done successfully.\n"), ("987", "RUN", ""))
        )  # fmt: skip
        done = Completed(0, ("-" * 78 + "\n").join(stories))
    records: Mapping[JobId, object] = {}
    damaged = data.draw(_damaged(done))
    with contextlib.suppress(Unreachable):
        records = case.dialect.read_accounting(damaged, jobs)
    for job in jobs[:2]:
        assert getattr(records.get(job), "state", JobState.UNKNOWN) not in {JobState.COMPLETED, JobState.FAILED}


SUBMITTED = {
    "slurm": (Slurm(), "123456\n", "123456"),
    "pbs": (Pbs(), "123456.srv\n", "123456.srv"),
    "torque": (Torque(), "123456.srv\n", "123456.srv"),
    "lsf": (Lsf(), "Job <123456> is submitted to default queue <normal>.\n", "123456"),
    "docker": (Docker(), "a" * 64 + "\n", "a" * 64),
    "kubernetes": (Kubernetes(), pod("1", "Pending") + "\n", "bh-1"),
}


@pytest.mark.parametrize("name", SUBMITTED)
@given(at=st.integers(0, 60), noise=_LETTERS, code=st.none() | st.integers(0, 255), late=st.booleans())
def test_a_damaged_success_is_never_a_refusal(name: str, at: int, noise: str, code: int | None, late: bool) -> None:
    """A submit whose answer was lost on its way may have made a job; only the scheduler's own words refuse."""
    dialect, out, _ = SUBMITTED[name]
    with contextlib.suppress(SubmitAmbiguous, CommandNotFound):
        dialect.read_submit(Completed(code, out[:at], noise, timed_out=late))


@pytest.mark.parametrize("name", SUBMITTED)
@given(at=st.integers(0, 60), late=st.booleans())
def test_an_id_that_a_kill_cut_short_is_not_taken(name: str, at: int, late: bool) -> None:
    dialect, out, job = SUBMITTED[name]
    with contextlib.suppress(SubmitAmbiguous):
        assert dialect.read_submit(Completed(None, out[:at], "", timed_out=late)) == job


@pytest.mark.parametrize("name", SUBMITTED)
@given(out=st.text(), err=st.text(), code=st.none() | st.integers(-1, 256), late=st.booleans())
def test_nothing_but_the_errors_of_the_protocol(name: str, out: str, err: str, code: int | None, late: bool) -> None:
    dialect = SUBMITTED[name][0]
    done, jobs = Completed(code, out, err, timed_out=late), [JobId("1234")]
    with contextlib.suppress(SubmitRejected, SubmitAmbiguous, CommandNotFound):
        dialect.read_submit(done)
    for read in (dialect.read_status, dialect.read_accounting):
        with contextlib.suppress(Unreachable, CommandNotFound):
            read(done, jobs)
    with contextlib.suppress(Unreachable, CommandNotFound):
        dialect.read_find(done)


def test_two_records_that_ran_into_one_are_not_believed() -> None:
    """A buffer was lost between two writes: the head of a living job's record goes on with the rest of an ended one's."""
    one, two = CASES["pbs of 19"], CASES["torque"]
    at = one.out.index('"job_state":"R"')
    for cut in (
        (one, one.out[:at] + one.out[one.out.index('"55.srv"') :]),
        (one, one.out[:at] + one.out[one.out.index('"job_state":"F"') :].replace("F", "R", 1).replace('"substate"', '"job_state":"F","substate"', 1)),
        (two, two.out.replace("</Job><Job><Job_Id>55.srv", "", 1)),
    ):  # fmt: skip
        case, out = cut
        assert out != case.out
        listing = case.dialect.read_status(Completed(case.code, out, case.err), [JobId(job) for job in case.jobs])
        assert listing.unread >= {"1234.srv"}
        assert not listing.gone
