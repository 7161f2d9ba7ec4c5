"""Queues of a PBS and of a Torque site."""

from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.model import QueueInfo
from batchhub.core.ports import Completed
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.pbs_site import read_size
from tests.recordings.openpbs.recorded import recorded


def answers(*names: str) -> list[Completed]:
    return [recorded("openpbs", name)[1] for name in names]


def test_queues_nodes_and_server_of_a_recorded_site() -> None:
    queues = {q.name: q for q in Pbs().read_inspect(answers("queues_json", "nodes_one_json", "server_json"))}
    assert list(queues) == ["workq", "short", "closed", "stopped", "private", "capped", "route"]
    assert queues["workq"] == QueueInfo(
        "workq", default=True, open=True, max_cores=2, max_memory_mib=24105, max_gpus=1, nodes=1, free_cores=2
    )
    assert queues["short"].max_walltime == timedelta(minutes=10)
    assert queues["short"].default_walltime == timedelta(minutes=5)
    assert queues["short"].max_cores == 1
    assert not queues["closed"].open
    assert not queues["stopped"].open
    assert queues["route"].nodes is None


def test_a_node_that_is_down_offers_nothing() -> None:
    queues = Pbs().read_inspect(answers("queues_json", "mom_down_nodes_json"))
    assert (queues[0].nodes, queues[0].free_cores) == (0, 0)


def test_what_the_nodes_know_is_left_out_if_they_cannot_be_read() -> None:
    for nodes in ("server_down_nodes_json", "nodes_unknown", "queues_json"):
        queue = Pbs().read_inspect(answers("queues_json", nodes, "server_down_server_json"))[0]
        assert (queue.nodes, queue.free_cores, queue.default) == (None, None, False)
    assert Pbs().read_inspect(answers("queues_json"))[0].name == "workq"
    killed = replace(answers("nodes_one_json")[0], code=None, timed_out=True)
    assert Pbs().read_inspect([answers("queues_json")[0], killed])[0].nodes is None
    broken = replace(answers("queues_json")[0], out="{")
    assert Pbs().read_inspect([answers("queues_json")[0], broken])[0].nodes is None


@pytest.mark.parametrize("name", ["server_down_queues_json", "queues_json_unknown", "nodes_one_json"])
def test_without_queues_nothing_is_known(name: str) -> None:
    with pytest.raises(Unreachable):
        Pbs().read_inspect(answers(name))


def test_nothing_asked() -> None:
    for dialect in (Pbs(), Torque()):
        with pytest.raises(Unreachable):
            dialect.read_inspect([])


def test_a_node_of_one_queue_serves_that_queue_alone() -> None:
    queues = '{"Queue":{"a":{"enabled":"True","started":"True"},"b":{"enabled":"True","started":"True","from_route_only":"True"}}}'
    nodes = (
        '{"nodes":{"n1":{"state":"free","queue":"a","resources_available":{"ncpus":8,"mem":"64gb","naccelerators":4,"gpu_model":"a100"}},'
        '"n2":{"state":"job-exclusive","pcpus":4}}}'
    )
    a, b = Pbs().read_inspect([Completed(0, queues), Completed(0, nodes)])
    assert (a.max_cores, a.max_memory_mib, a.max_gpus, a.gpu_types, a.free_cores) == (8, 65536, 4, ("a100",), 8)
    assert (b.max_cores, b.free_cores, b.open) == (4, 0, False)


def test_torque_site() -> None:
    queues = (
        "Queue: batch\n    queue_type = Execution\n    resources_max.walltime = 24:00:00\n    enabled = True\n    started = True\n\n"
        "Queue: old\n    queue_type = Execution\n    enabled = False\n    started = True\n"
    )
    nodes = (
        "<Data><Node><name>n1</name><state>free</state><np>8</np><jobs>0-2/12.srv,5/13.srv</jobs><gpus>2</gpus>"
        "<status>ncpus=8,physmem=65974796kb,totmem=1kb</status></Node><Node><name>n2</name><state>down,offline</state><np>16</np></Node></Data>"
    )
    server = "Server: srv\n    server_state = Active\n    default_queue = batch\n"
    batch, old = Torque().read_inspect([Completed(0, queues), Completed(0, nodes), Completed(0, server)])
    assert batch == QueueInfo(
        "batch",
        default=True,
        max_walltime=timedelta(hours=24),
        max_cores=8,
        max_memory_mib=64428,
        max_gpus=2,
        nodes=1,
        free_cores=4,
    )
    assert not old.open
    unfinished = Torque().read_inspect([Completed(0, queues), Completed(0, nodes[:-9])])
    assert unfinished[0].nodes is None
    bare = Torque().read_inspect([Completed(0, queues), Completed(0, "<Data>"), Completed(1, "")])
    assert (bare[0].nodes, bare[0].default) == (None, False)
    assert Torque().read_inspect([Completed(0, queues)])[0].nodes is None
    with pytest.raises(Unreachable):
        Torque().read_inspect([Completed(0, "")])


@pytest.mark.parametrize(
    ("text", "mib"),
    [("7388kb", 7), ("64gb", 65536), ("64GB", 65536), ("1tb", 1024**2), ("4mw", 32), ("1048576", 1), ("8g", 8192), ("", None), ("much", None)],
)  # fmt: skip
def test_sizes(text: str, mib: int | None) -> None:
    assert read_size(text) == mib
