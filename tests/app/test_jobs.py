"""What a site's words become: the script's context, and where the proxy dials."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from batchhub.app.jobs import SiteJobBuilder, _context
from batchhub.app.site import Site
from batchhub.config.clusters import ClusterSettings
from batchhub.control.walltime import Notices
from batchhub.core.errors import BadInput, ConfigError, Denied
from batchhub.core.forms import Profile
from batchhub.core.handshake import Connection, start_token
from batchhub.core.hosts import read_origin
from batchhub.core.model import Endpoint, Server, ServerId, UserName
from batchhub.core.walltime import TimeUp
from batchhub.job.applications import BUILT_IN

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
PROFILE = Profile(
    "lab", "hpc", prologue="module load b", epilogue="echo own", environment={"A": "profile"}, directives=("--nice=5",)
)
SERVER = Server(
    ServerId("abcdefghij22"),
    UserName("alice"),
    "",
    "hpc",
    "lab",
    "alice_hpc",
    NOW,
    NOW,
    host="n1.cluster",
    generation=3,
)
SAID = Connection("liar.example.org", ("10.1.2.3", "192.168.0.9"), 40000, "", 7, "a" * 32, 3, NOW)


def builder(cluster: ClusterSettings, key: bytes = bytes(32)) -> SiteJobBuilder:
    return SiteJobBuilder(Site((cluster,), (PROFILE,), BUILT_IN, ()), key)


def hpc(**settings: object) -> ClusterSettings:
    return ClusterSettings("hpc", **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------- where to dial


def test_the_schedulers_word_on_the_node_wins() -> None:
    assert builder(hpc()).endpoint(SERVER, SAID) == Endpoint("n1.cluster", 40000)


def test_the_node_name_is_made_what_the_login_node_knows() -> None:
    assert builder(hpc(node_address="{host}-ib")).endpoint(SERVER, SAID).host == "n1.cluster-ib"
    assert builder(hpc(node_address="127.0.0.1")).endpoint(SERVER, SAID).host == "127.0.0.1"


def test_a_reported_address_is_believed_in_named_networks_alone() -> None:
    assert builder(hpc(node_networks=("192.168.0.0/16",))).endpoint(SERVER, SAID).host == "192.168.0.9"
    assert builder(hpc(node_networks=("10.0.0.0/8", "192.168.0.0/16"))).endpoint(SERVER, SAID).host == "10.1.2.3"
    assert builder(hpc(node_networks=("172.16.0.0/12",))).endpoint(SERVER, SAID).host == "n1.cluster"
    v6 = replace(SAID, addresses=("fd00::1",))
    assert builder(hpc(node_networks=("10.0.0.0/8",))).endpoint(SERVER, v6).host == "n1.cluster"
    assert builder(hpc(node_networks=("fd00::/8",))).endpoint(SERVER, v6).host == "fd00::1"


def test_without_a_node_there_is_nowhere_to_dial() -> None:
    unknown = replace(SERVER, host="")
    with pytest.raises(BadInput, match="does not say which node"):
        builder(hpc()).endpoint(unknown, SAID)
    with pytest.raises(BadInput, match="does not say which node"):
        builder(hpc(node_address="{host}-ib")).endpoint(unknown, SAID)
    assert builder(hpc(node_networks=("10.0.0.0/8",))).endpoint(unknown, SAID).host == "10.1.2.3"


def test_a_port_outside_of_the_clusters_range_is_refused() -> None:
    limited = builder(hpc(ports=(40000, 40010)))
    assert limited.endpoint(SERVER, SAID).port == 40000
    assert limited.endpoint(SERVER, replace(SAID, port=40010)).port == 40010
    for port in (39999, 40011):
        with pytest.raises(BadInput, match=f"port {port}, outside of 40000-40010"):
            limited.endpoint(SERVER, replace(SAID, port=port))


def test_a_privileged_port_is_no_notebook() -> None:
    with pytest.raises(BadInput, match="port 22"):
        builder(hpc()).endpoint(SERVER, replace(SAID, port=22))


def test_a_socket_is_on_the_schedulers_node() -> None:
    assert builder(hpc()).endpoint(SERVER, replace(SAID, port=0, socket="/tmp/x/s")) == Endpoint(
        "n1.cluster", socket="/tmp/x/s"
    )


# ---------------------------------------------------------------- route and files


def test_a_route_carries_owner_account_and_the_generations_own_secret() -> None:
    made = builder(hpc())
    started = replace(SERVER, endpoint=Endpoint("n1", 40000), nonce="a" * 32)
    route = made.route(started)
    assert (route.path, route.owner, route.account, route.kind) == ("/user/alice/", "alice", "alice_hpc", "direct")
    assert route.authorization == f"token {start_token(made.token(SERVER, 3), 'a' * 32)}"
    assert made.route(replace(started, generation=4)).authorization != route.authorization
    assert made.route(replace(started, nonce="b" * 32)).authorization != route.authorization
    with pytest.raises(BadInput, match="has not said where it listens"):
        made.route(SERVER)


def test_only_the_secrets_file_holds_the_secret() -> None:
    made = builder(hpc(callback_url="http://hub:8081/"))
    files = made.build(SERVER, "/home/alice_hpc/")
    token = made.token(SERVER, 3)
    assert [name for name, content in files.files.items() if token.encode() in content] == ["secrets.json"]
    assert token not in files.script
    launch = json.loads(files.files["launch.json"])
    assert launch["callback_url"] == "http://hub:8081/hub/api/jobs/abcdefghij22/connection"
    assert launch["base_url"] == "/user/alice/"
    assert made.ready_path(SERVER).startswith("/user/alice/")


def test_a_server_is_told_and_asked_below_its_own_path() -> None:
    made = builder(hpc())
    assert made.shutdown_path(SERVER) == "/user/alice/api/shutdown"
    assert made.jupyter_path(SERVER) == "/user/alice/api/"
    gone = replace(SERVER, profile="old")
    assert (made.shutdown_path(gone), made.jupyter_path(gone)) == ("", ""), "it can be stopped all the same"


def test_a_name_that_is_gone_from_the_configuration() -> None:
    with pytest.raises(ConfigError, match="There is no profile 'old'; known: lab"):
        builder(hpc()).script(replace(SERVER, profile="old"), "/h", "/h/d")
    with pytest.raises(ConfigError, match="There is no cluster 'hcp'; did you mean 'hpc'"):
        builder(hpc()).script(replace(SERVER, cluster="hcp"), "/h", "/h/d")


# ---------------------------------------------------------------- the script's context


def test_options_become_the_scripts_values() -> None:
    cluster = hpc(
        prologue="module load a", epilogue="echo all", environment={"A": "cluster", "B": "b"}, python="/opt/python3"
    )
    options = {
        "partition": "gpu",
        "cores": 4,
        "memory": 8192,
        "walltime": 5400,
        "gpus": 2,
        "gpu_type": "a100",
        "account": "proj",
        "qos": "high",
        "reservation": "class",
        "course": "ml",
        "debug": True,
    }
    context = _context(replace(SERVER, options=options), cluster, PROFILE, "/h/alice", "/h/alice/d")
    assert (context.partition, context.nprocs, context.memory_mib) == ("gpu", 4, 8192)
    assert context.walltime == timedelta(minutes=90)
    assert (context.gpus, context.gpu_type) == (2, "a100")
    assert (context.account, context.qos, context.reservation) == ("proj", "high", "class")
    assert context.options == {"course": "ml", "debug": True}
    assert (context.username, context.homedir, context.directory) == ("alice_hpc", "/h/alice", "/h/alice/d")
    assert context.prologue == "module load a\nmodule load b"
    assert context.epilogue == "echo own\necho all"
    assert context.environment == {"A": "profile", "B": "b"}
    assert context.directives == ("--nice=5",)
    assert context.python == "/opt/python3"


def test_what_was_not_asked_is_the_schedulers_to_decide() -> None:
    context = _context(SERVER, hpc(), PROFILE, "/h", "/h/d")
    assert (context.partition, context.nprocs, context.memory_mib, context.walltime, context.gpus) == (
        "",
        1,
        None,
        None,
        0,
    )


def test_lsfs_unit_of_memory_comes_from_the_dialects_options() -> None:
    lsf = hpc(scheduler="lsf", scheduler_options={"unit_for_limits": "MB"})
    assert _context(SERVER, lsf, PROFILE, "/h", "/h/d").memory_unit == "MB"


# ---------------------------------------------------------------- hosts of their own


def test_with_sub_domains_a_route_has_its_host_and_the_application_knows_the_hubs() -> None:
    site = Site((hpc(),), (PROFILE,), BUILT_IN, (), read_origin("https://hub.example.org:8443"))
    made = SiteJobBuilder(site, bytes(32))
    ready = replace(SERVER, endpoint=Endpoint("n1", 40000))
    assert made.route(ready).host == "alice.hub.example.org"
    assert made.route(replace(ready, name="big")).host == "alice--big.hub.example.org"
    launch = made.build(SERVER, "/home/alice").files["launch.json"]
    assert b"'hubHost':'https://hub.example.org:8443'" in launch
    plain = builder(hpc())
    assert plain.route(ready).host == ""
    assert b"'hubHost':''" in plain.build(SERVER, "/home/alice").files["launch.json"]


# ---------------------------------------------------------------- before the end


def test_what_the_job_is_told_of_its_end_and_when_its_owner_is_warned() -> None:
    site = Notices(timedelta(minutes=15), timedelta(minutes=2))
    own = replace(PROFILE, time_up=TimeUp(warn_before=60, save_before=0, command="save", signal="USR1"))
    found = []
    for profile in (PROFILE, own):
        made = SiteJobBuilder(Site((hpc(),), (profile,), BUILT_IN, ()), bytes(32), notices=site)
        files = made.build(replace(SERVER, options={"walltime": 7200}), "/home/alice").files
        found.append((made.notices(SERVER), json.loads(files["launch.json"])["time_up"]))
    assert found == [
        (site, {"walltime": 7200.0, "before": 120.0, "command": "", "signal": ""}),
        (
            Notices(timedelta(minutes=1), timedelta(0)),
            {"walltime": 7200.0, "before": 0.0, "command": "save", "signal": "USR1"},
        ),
    ]
    gone = replace(SERVER, profile="taken out")
    assert made.notices(gone) == site


def test_a_job_directory_proves_whose_it_is_before_it_holds_its_secret() -> None:
    made = builder(hpc(account="{username}_hpc"))
    files = made.build(SERVER, "/home/alice").files
    names = list(files)
    assert names.index("server.json") < names.index("secrets.json")
    facts = made.prove(files["server.json"])
    assert (facts.id, facts.account, facts.generation) == (SERVER.id, "alice_hpc", 3)
    assert made.unfit(facts) == ""
    assert made.token(SERVER, 3) not in files["server.json"].decode()
    with pytest.raises(Denied):
        builder(hpc(), bytes(31) + b"1").prove(files["server.json"])


def test_facts_that_the_configuration_has_outgrown() -> None:
    made = builder(hpc(account="{username}_hpc"))
    facts = made.prove(made.proof(SERVER))
    assert "no cluster 'old'" in made.unfit(replace(facts, cluster="old"))
    assert "no profile 'old'" in made.unfit(replace(facts, profile="old"))
    assert "'alice' now" in builder(hpc()).unfit(facts)
