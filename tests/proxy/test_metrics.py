"""What is counted, and how Prometheus reads it."""

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchhub.proxy.access import Allow, AskHub, Decision, Knock, Redirect, Refuse
from batchhub.proxy.counters import BOUNDS, Counters, Report, key
from batchhub.proxy.doorway import Entered
from batchhub.proxy.metrics import exposition
from batchhub.proxy.plane import DataPlane, Parts
from batchhub.tunnel.chain import ChainTunnel
from batchhub.tunnel.reverse import ReverseTunnel
from tests.proxy.harness import TOKEN, App, Clock, read_head, running, settings, ticket_cookie, world
from tests.proxy.processes import proxy, talk, until
from tests.proxy.test_api import call


def samples(text: bytes) -> dict[str, float]:
    """``name{label="value",…}`` -> value."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_counting() -> None:
    counters = Counters()
    counters.request(b"GET", 200, 0.004, 10, 0)
    counters.request(b"GET", 200, 0.02, 10, 0)
    counters.request(b"PROPFIND", 999, 100.0, 0, 5)
    counters.request(b"BREW", 799, 0.005, 0, 0)
    counters.request(b"GET", 101, 9999.0, 1000, 2000)
    counters.decided(Allow)
    counters.decided(Allow)
    for kind in (Refuse, AskHub, Redirect, Knock, Entered):
        counters.decided(kind)
    counters.turned_away()
    shown = samples(exposition(Report(counters.counts()) + Report({}, {"clients": 3})))
    assert shown['batchhub_proxy_requests_total{code="200",method="GET"}'] == 2
    assert shown['batchhub_proxy_requests_total{code="other",method="other"}'] == 2, "no client makes up labels"
    assert shown["batchhub_proxy_request_seconds_count"] == 4, "without the WebSocket"
    assert shown["batchhub_proxy_request_seconds_sum"] == pytest.approx(100.029)
    assert shown['batchhub_proxy_request_seconds_bucket{le="0.005"}'] == 2
    assert shown['batchhub_proxy_request_seconds_bucket{le="0.025"}'] == 3
    assert shown[f'batchhub_proxy_request_seconds_bucket{{le="{BOUNDS[-1]}"}}'] == 3
    assert shown['batchhub_proxy_request_seconds_bucket{le="+Inf"}'] == 4
    assert shown["batchhub_proxy_sent_bytes_total"] == 1020
    assert shown["batchhub_proxy_received_bytes_total"] == 2005
    assert shown['batchhub_proxy_access_total{decision="allowed"}'] == 2
    decisions = {name for name in shown if name.startswith("batchhub_proxy_access_total")}
    assert len(decisions) == len([*get_args(Decision), Entered]), "each has a name of its own"
    assert {shown[name] for name in decisions} == {1, 2}
    assert 'batchhub_proxy_access_total{decision="other"}' not in decisions
    assert shown["batchhub_proxy_turned_away_total"] == 1
    assert shown["batchhub_proxy_client_connections"] == 3
    # configurable-http-proxy's names.
    assert shown["requests_ws"] == 1
    assert shown["requests_web"] == 4
    assert shown['requests_proxy{status="200"}'] == 2
    assert shown["find_target_for_req_count"] == 5


def test_reports_are_added_up() -> None:
    one = Report({key("a", "x"): 1, "b": 2}, {"c": 1})
    assert one + Report({key("a", "x"): 3, key("a", "y"): 1}, {"d": 5}) == Report(
        {key("a", "x"): 4, "b": 2, key("a", "y"): 1}, {"c": 1, "d": 5}
    )


class JobsThere:
    """What is of no cluster: the connections of jobs that dialled in."""

    def state(self) -> dict[str, str]:
        return {"job": "since 2026-03-04 05:06:07 UTC, 0 streams"}

    def counters(self) -> dict[str, int]:
        return {"connects": 3}


def test_what_several_clusters_share_is_counted_once(tmp_path: Path) -> None:
    gate = JobsThere()
    reverse, chain = ReverseTunnel(gate), ChainTunnel({"reverse": ReverseTunnel(gate)})  # type: ignore[arg-type]

    async def scenario() -> DataPlane:
        tunnels = {("c1", "reverse"): reverse, ("c2", "login,reverse"): chain}
        parts = Parts(tunnels, nobody, gate)  # type: ignore[arg-type]
        plane = DataPlane(settings(tmp_path), parts, Clock())
        await plane.close()
        return plane

    plane = asyncio.run(scenario())
    report = plane.report()
    assert {name: value for name, value in report.counts.items() if "tunnel" in name} == {
        key("tunnel_events", "", "reverse", "connects"): 3
    }
    assert {name: value for name, value in report.levels.items() if "tunnels" in name} == {
        key("tunnels", "", "reverse", "up"): 1
    }
    assert [tunnel["cluster"] for tunnel in plane.tunnels() if tunnel["state"]] == [""]


async def nobody(_token: str, _path: str) -> None:
    return None


async def test_what_a_proxy_shows(tmp_path: Path) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        entered.set()
        if head.header("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await leave.wait()

    async with running(App()) as app, running(App(serve=wait)) as waiting, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", tunnel={"cluster": "c1", "kind": "login", "account": "al"})
        w.route("/waiting", waiting.port)
        assert (await w.get("/user/alice/x", ticket_cookie(), method="POST", body=b"12345"))[0] == 200
        assert (await w.get("/user/alice/secret-path"))[0] == 403
        open_ends = []
        for extra in ("", "Connection: Upgrade\r\nUpgrade: x\r\n"):
            entered.clear()
            reader, writer = await w.connect()
            writer.write(f"GET /waiting HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
            await entered.wait()
            if extra:
                await reader.readuntil(b"\r\n\r\n")
            open_ends.append(writer)
        assert (await call(w, "POST", "/api/routes/x", {"target": "http://x"}))[0] == 201
        assert (await call(w, "GET", "/api/routes"))[0] == 200
        status, text = await call(w, "GET", "/api/metrics")
        shown = samples(text)
        leave.set()
        for writer in open_ends:
            writer.close()
    assert status == 200
    assert shown['batchhub_proxy_requests_total{code="200",method="POST"}'] == 1
    assert shown['batchhub_proxy_requests_total{code="403",method="GET"}'] == 1
    assert shown["batchhub_proxy_received_bytes_total"] == 5
    assert shown["batchhub_proxy_sent_bytes_total"] == 2
    assert shown['batchhub_proxy_access_total{decision="allowed"}'] == 1
    assert shown['batchhub_proxy_access_total{decision="refused"}'] == 1
    assert shown["batchhub_proxy_requests_in_flight"] == 1
    assert shown["batchhub_proxy_websockets"] == 1
    assert shown["batchhub_proxy_client_connections"] == 2
    assert shown['batchhub_proxy_tunnels{cluster="c1",kind="login",state="open"}'] == 1
    assert shown["batchhub_proxy_routes"] == 3
    assert shown['batchhub_proxy_changes_total{change="route added"}'] == 1
    assert shown["api_route_add"] == 1
    assert shown["api_route_get"] == 1
    assert shown['requests_api{status="201"}'] == 1
    for secret in (b"alice", b"secret-path", TOKEN.encode(), b"/x"):
        assert secret not in text


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_workers_are_added_up_and_have_a_listener_of_their_own(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2, metrics=True) as w:
        await w.route("/open", app)
        sockets = await w.sockets_in_both("/open/ws")
        assert (await w.get("/open/x"))[0] == 200
        status, text = await w.get("/metrics", port=w.metrics_port)
        shown = samples(text)
        assert status == 200
        assert shown["batchhub_proxy_websockets"] == 2
        assert shown['batchhub_proxy_workers{state="serving"}'] == 2
        assert shown['batchhub_proxy_requests_total{code="200",method="GET"}'] == 1
        assert shown["api_route_add"] == 1
        assert (await w.get("/api/routes", port=w.metrics_port))[0] == 404, "nothing but metrics without a token"
        for socket in sockets.values():
            socket.writer.close()
        # One line for each request, whole, whichever worker wrote it, a moment later.
        await until(lambda: " /open/x " in w.log(), "the request is in the log")
        lines = [line.partition("access: ")[2] for line in w.log().splitlines() if "proxy.access" in line]
        assert [json.dumps(line.split()[:4]) for line in lines if " /open/x " in line] == [
            '["GET", "/open/x", "200", "-"]'
        ]
