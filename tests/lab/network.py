"""What a site's network forbids and allows between hub, login node and nodes, for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.lab.cluster import SlurmLab, run


@contextmanager
def blocked(lab: SlurmLab, node: str, *, open_ports: Sequence[int] = ()) -> Iterator[None]:
    """A firewall on the node: no TCP connection from outside begins, but to these ports (and slurmd's).

    What is open stays open; what is blocked is not answered. The node's own connections to others are free.
    """
    ports = ", ".join(map(str, (*open_ports, lab.ports["d"])))
    rules = f"""
table inet bhlab {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname "lo" accept
        tcp dport != {{ {ports} }} tcp flags & (syn | ack) == syn drop
    }}
}}
"""
    run(*lab.in_node(node, ["nft", "-f", "-"]), stdin=rules)
    try:
        yield
    finally:
        run(*lab.in_node(node, ["nft", "delete", "table", "inet", "bhlab"]))


@contextmanager
def way_out(lab: SlurmLab, node: str) -> Iterator[str]:
    """A cable from the node to the hub; the hub's address on it. With :func:`blocked` only the node can use it."""
    number = lab.nodes.index(node)
    inner, outer = f"10.79.{lab.slot}.{4 * number + 1}", f"10.79.{lab.slot}.{4 * number + 2}"
    hub, inside = lab.hub_namespace, lab.namespace(node)
    run("ip", "-n", hub, "link", "add", node, "type", "veth", "peer", "name", "eth1", "netns", inside)
    try:
        for space, link, address in ((hub, node, outer), (inside, "eth1", inner)):
            run("ip", "-n", space, "addr", "add", f"{address}/30", "dev", link)
            run("ip", "-n", space, "link", "set", link, "up")
        yield outer
    finally:
        run("ip", "-n", hub, "link", "del", node)
