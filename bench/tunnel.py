"""Our proxy with its SSH tunnel beside ``ssh -L``, through a real sshd: ``python bench/tunnel.py [--quick] [--json]``.

The same application, load and cores as in proxy.py; sshd is on the load's core. Ours is the proxy and the tunnel in one process.
Beside it: ``ssh -L`` alone as it comes and with our cipher, CHP without any tunnel, and CHP in front of ``ssh -L``, which is what one would run without us.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package beside us, installed or not

from bench import options, report
from bench.machine import PYTHON, conditions, installed, program, raise_file_limit, running, said, two_cores
from bench.measure import CONNECTIONS, NO_WRK, PATH, Bench
from bench.options import Asked
from bench.peers import Peer, add_route, chp, ours_tunnelled
from bench.sshd import CIPHER, LoginNode, forward, login_node, missing
from tests.ports import free_port

SECTIONS = ("requests", "websocket", "transfer")
WAYS = ("ours", "ssh", "ssh_gcm", "chp", "chp_ssh")


@contextlib.contextmanager
def way(bench: Bench, node: LoginNode, name: str, peers: dict[str, Peer]) -> Iterator[tuple[list[int], int]]:
    """One way to the application: the processes on the proxy's core, and the port to ask."""
    with contextlib.ExitStack() as stack:
        pids, target = [], bench.application
        if "ssh" in name:
            place = bench.directory / f"ssh-{free_port()}"
            cipher = CIPHER if name == "ssh_gcm" else ""
            tunnel = stack.enter_context(forward(node, target, bench.proxy_core, place, cipher))
            bench.seen[name] = tunnel.cipher
            pids, target = [tunnel.pid], tunnel.port
        if name in peers or name == "chp_ssh":
            up = stack.enter_context(bench.run(peers[name.partition("_")[0]]))
            fields: dict[str, object] = {}
            if name == "ours":
                fields["tunnel"] = {"cluster": "far", "kind": "login", "account": node.account}
                fields["endpoint"] = {"host": "127.0.0.1", "port": target}
            add_route(up.place.api, PATH, target, **fields)
            pids, target = [*pids, up.pid], up.place.port
        yield pids, target


def measured(bench: Bench, section: str, name: str, pids: list[int], port: int) -> None:
    """One section of one way."""
    if section == "requests":
        bench.keep("tunnel_requests", name, bench.requests(pids, port))
    elif section == "websocket":
        bench.keep("tunnel_websocket", name, bench.messages(pids, port))
    else:
        bench.load("download", port, PATH, 1024 * 1024)  # from now on the SSH connection is there
        for kind, seen in bench.transfers(pids, port):
            bench.keep(f"tunnel_{kind}", name, seen)


def wanted(name: str, section: str, peers: dict[str, Peer]) -> bool:
    """CHP is there for small requests and messages alone, ssh with our cipher for large bodies alone."""
    if name.startswith("chp"):
        return "chp" in peers and section != "transfer"
    return name != "ssh_gcm" or section == "transfer"


def measure(asked: Asked) -> dict[str, object]:
    """Run what is asked for. Raises Unfit when anything failed, for then no figure is worth reporting."""
    cores, lacking, skipped, sections = two_cores(), missing(), [], asked.sections
    notes = [NO_WRK] if program("wrk") is None else []
    if cores is None:
        lacking = "Two cores are needed: one for the proxy, one for the load."
    if lacking or cores is None:
        return report.result({}, conditions(), [*skipped, lacking])
    theirs, why = chp() if "chp" in asked.peers else (None, "")
    skipped += [why] if why else []
    raise_file_limit()
    where = conditions()
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="batchhub-bench-") as name,
        running([PYTHON, "-m", "bench.application", str(port)], cores[1], [port], patient=True),
        login_node(Path(name) / "sshd", cores[1]) as node,
    ):
        own = ours_tunnelled("127.0.0.1", node.port, node.known_hosts, str(node.key), node.account)
        peers = {"ours": own} | ({"chp": theirs} if theirs is not None else {})
        bench = Bench(asked.plan, list(peers.values()), cores[0], cores[1], port, Path(name), asked.say, notes=notes)
        for section in sections:
            for one in bench.turns(section, [one for one in WAYS if wanted(one, section, peers)]):
                with way(bench, node, one, peers) as (pids, target):
                    measured(bench, section, one, pids, target)
    where["versions"] = {**where["versions"], **versions(peers)}  # type: ignore[dict-item]
    where["ciphers"] = {"ours": CIPHER, **bench.seen}
    where.update(rounds=asked.plan.rounds, seconds=asked.plan.seconds, connections=CONNECTIONS)
    return report.result(bench.raw, where, skipped, bench.notes)


def versions(peers: dict[str, Peer]) -> dict[str, str]:
    """Whose figures these are."""
    found = {peer.name: peer.version for peer in peers.values()} | installed("asyncssh", "cryptography")
    openssh = said([program("ssh") or "ssh", "-V"], r"OpenSSH_(\S+?),")
    return found | {"openssh": openssh, "wrk": said(["wrk", "-v"], r"wrk (\S+)")}


if __name__ == "__main__":
    options.main(__doc__ or "", SECTIONS, measure)
