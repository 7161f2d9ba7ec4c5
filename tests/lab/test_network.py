"""The lab keeps its promises: who reaches whom."""

import socket
import subprocess
from pathlib import Path

import paramiko
import pytest

from tests.lab.cluster import BASE, SERVICE, SlurmLab

pytestmark = [pytest.mark.cluster, pytest.mark.sshd]


@pytest.fixture
def ssh(slurm_lab: SlurmLab, tmp_path: Path) -> list[str]:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for user in ("alice", SERVICE):
        slurm_lab.authorize(user, (tmp_path / "key.pub").read_text())
    known = tmp_path / "known_hosts"
    known.write_text("\n".join([slurm_lab.host_key_line, *slurm_lab.node_host_key_lines]) + "\n")
    options = [
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known}",
        "BatchMode=yes",
        "ConnectTimeout=5",
        "LogLevel=ERROR",
    ]
    return ["ssh", "-F", "none", "-i", str(key), *(part for option in options for part in ("-o", option))]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL)


def login(lab: SlurmLab, user: str = "alice") -> list[str]:
    return ["-p", str(lab.login_port), f"{user}@{lab.login_host}"]


def test_the_hub_reaches_the_login_node_and_slurm_there(slurm_lab: SlurmLab, ssh: list[str]) -> None:
    done = run(slurm_lab.in_hub_namespace([*ssh, *login(slurm_lab), "whoami; sinfo -h -p debug -o %D"]))
    assert (done.stdout, done.stderr) == ("alice\n2\n", "")


def test_the_service_account_acts_for_people(slurm_lab: SlurmLab, ssh: list[str]) -> None:
    done = run(
        slurm_lab.in_hub_namespace([*ssh, *login(slurm_lab, SERVICE), "sudo -n -u bob sh -c 'whoami; squeue -h'"])
    )
    assert (done.stdout, done.stderr) == ("bob\n", "")


def test_the_hub_reaches_no_node_but_through_the_login_node(slurm_lab: SlurmLab, ssh: list[str]) -> None:
    node, address = next(iter(slurm_lab.node_addresses.items()))
    for target in (address, slurm_lab.controller_host):
        direct = run(slurm_lab.in_hub_namespace([*ssh, "-p", "22", f"alice@{target}", "true"]))
        assert "Network is unreachable" in direct.stderr
    jump = f"ProxyCommand={' '.join([*ssh, '-W', '%h:%p', *login(slurm_lab)])}"
    done = run(slurm_lab.in_hub_namespace([*ssh, "-o", jump, f"alice@{node}", "hostname"]))
    assert (done.stdout, done.stderr) == (f"{node}\n", "")


def test_a_nodes_loopback_is_its_own(slurm_lab: SlurmLab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert run(["python3", "-c", connect]).returncode == 0
        assert run(slurm_lab.in_node(slurm_lab.nodes[0], ["python3", "-c", connect])).returncode != 0


def test_a_node_can_lose_its_cable(slurm_lab: SlurmLab) -> None:
    node, address = next(iter(slurm_lab.node_addresses.items()))

    def reachable() -> bool:
        try:
            socket.create_connection((address, 22), 0.5).close()
        except OSError:
            return False
        return True

    assert reachable()
    slurm_lab.set_node_link(node, up=False)
    try:
        assert not reachable()
    finally:
        slurm_lab.set_node_link(node, up=True)
    slurm_lab.wait_until(reachable, 10, "the node's cable")


def test_passwords_when_asked_for_and_nothing_left_behind() -> None:
    with SlurmLab(passwords=True) as lab:
        with paramiko.SSHClient() as client:
            client.get_host_keys().load(str(known_hosts(lab)))
            client.connect(
                lab.login_host, lab.login_port, "alice", lab.password["alice"], look_for_keys=False, allow_agent=False
            )
            _, out, _ = client.exec_command("whoami")
            assert out.read() == b"alice\n"
        root, spaces = lab.root, [lab.hub_namespace, *(lab.namespace(node) for node in lab.nodes)]
        pids = [process.pid for process in lab._daemons.values()]
        assert f"# batchhub-lab-{lab.slot}\n" in Path("/etc/hosts").read_text()
    assert not root.exists()
    assert root.parent == BASE
    assert not any(Path(f"/run/netns/{space}").exists() for space in spaces)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert f"# batchhub-lab-{lab.slot}\n" not in Path("/etc/hosts").read_text()


def known_hosts(lab: SlurmLab) -> Path:
    path = lab.root / "ssh/known_hosts"
    path.write_text(lab.host_key_line + "\n")
    return path


def test_passwords_are_off_otherwise(slurm_lab: SlurmLab, ssh: list[str]) -> None:
    done = run([*ssh, "-o", "PubkeyAuthentication=no", *login(slurm_lab), "true"])
    assert "Permission denied (publickey)" in done.stderr
