"""Queues of an LSF site."""

from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.model import QueueInfo
from batchhub.core.ports import Completed
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.lsf_site import read_default_queues, read_memory, read_queue_table
from tests.recordings.openpbs.recorded import recorded

LSF = Lsf(flavour="openlava")


def answers(*names: str) -> list[Completed]:
    return [recorded("openlava", name)[1] for name in names]


def test_a_recorded_site() -> None:
    queues = {q.name: q for q in LSF.read_inspect(answers("queues_w", "queues_l", "hosts_b", "params_after"))}
    assert list(queues) == ["private", "short", "normal", "memq", "idle"]
    assert queues["normal"] == QueueInfo("normal", default=True, max_cores=2, nodes=3, free_cores=4)
    assert queues["short"] == QueueInfo(
        "short",
        max_walltime=timedelta(minutes=10),
        default_walltime=timedelta(minutes=5),
        max_cores=1,
        nodes=3,
        free_cores=4,
    )
    assert queues["memq"].max_memory_mib == 488
    assert (queues["idle"].nodes, queues["idle"].free_cores) == (2, 2)


def test_closed_and_inactive_queues() -> None:
    _, done = recorded("openlava", "queues_closed_and_inactive")
    assert read_queue_table(done.out) == {"private": True, "short": True, "normal": False, "memq": False, "idle": True}


def test_what_cannot_be_read_is_left_out() -> None:
    failed = Completed(255, "x", "LIM is down; try later")
    killed = Completed(None, "x", timed_out=True)
    for rest in ((), (failed, failed, failed), (killed, killed, killed)):
        queue = LSF.read_inspect([*answers("queues_w"), *rest])[2]
        assert queue == QueueInfo("normal")


@pytest.mark.parametrize(
    "done", [[], answers("mbatchd_down_hosts"), [Completed(0, "")], [Completed(255, "", "No such queue")]]
)
def test_without_queues_nothing_is_known(done: list[Completed]) -> None:
    with pytest.raises(Unreachable):
        LSF.read_inspect(done)


def test_hosts_that_are_full_or_away() -> None:
    hosts = (
        "HOST_NAME STATUS JL/U MAX NJOBS RUN SSUSP USUSP RSV\n"
        "a ok - 16 4 4 0 0 0\nb closed_Full - 16 16 16 0 0 0\nc unavail - 16 0 0 0 0 0\nd ok - - 3 3 0 0 0\ne closed_Adm - 8 0 0 0 0 0\n"
    )
    queues, details = answers("queues_w", "queues_l")
    queue = LSF.read_inspect([queues, details, Completed(0, hosts)])[2]
    assert (queue.max_cores, queue.nodes, queue.free_cores) == (16, 3, 12)
    grouped = replace(details, out=details.out.replace("HOSTS:  pbsn1 pbsn2", "HOSTS:  groupA/ a+2"))
    assert LSF.read_inspect([queues, grouped, Completed(0, hosts)])[4].nodes == 3
    named = replace(details, out=details.out.replace("HOSTS:  pbsn1 pbsn2", "HOSTS:  a+2 b"))
    assert LSF.read_inspect([queues, named, Completed(0, hosts)])[4].nodes == 2
    assert LSF.read_inspect([queues, details, Completed(0, hosts)])[4].nodes is None


@pytest.mark.parametrize(
    ("text", "unit", "mib"),
    [("500000 K", "MB", 488), ("4 G", "KB", 4096), ("4096", "MB", 4096), ("4096", "KB", 4), ("4.0 Gbytes", "KB", 4096), ("-", "KB", None), ("1024", "", 1)],
)  # fmt: skip
def test_memory(text: str, unit: str, mib: int | None) -> None:
    assert read_memory(text, unit) == mib


def test_default_queues() -> None:
    assert read_default_queues("Default Queues:  normal short\n") == ("normal", "short")
    assert read_default_queues("") == ()
