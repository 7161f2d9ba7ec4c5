"""Ports on loopback that nobody has, for servers that must be told theirs before they start."""

import socket


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


def free_port() -> int:
    return free_ports(1)[0]
