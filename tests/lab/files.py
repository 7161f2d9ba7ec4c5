"""The lab's configuration files."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.cluster import SlurmLab

HOSTS = Path("/etc/hosts")


def mark_hosts(slot: int, addresses: Mapping[str, str]) -> None:
    """Replace this slot's lines in /etc/hosts, in place: in containers it is a mount that cannot be renamed over."""
    mark = f"# batchhub-lab-{slot}"
    with HOSTS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # labs in other slots write here too
        lines = HOSTS.read_text().splitlines()
        kept = [line for line in lines if not line.endswith(mark)]
        kept += [f"{address} {name} {mark}" for name, address in addresses.items()]
        if kept != lines:
            HOSTS.write_text("\n".join(kept) + "\n")


def write_slurm(lab: SlurmLab) -> None:
    """slurm.conf, cgroup.conf and gres.conf."""
    storage = (
        f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost={lab.controller_host}\n"
        f"AccountingStoragePort={lab.ports['dbd']}\nAccountingStorageEnforce=associations\n"
        # With munge this is not a password but the socket of its daemon.
        f"AccountingStoragePass={lab.munge_socket}\n"
        if lab.accounting
        else "AccountingStorageType=accounting_storage/none\n"
    )
    nodes = "".join(
        f"NodeName={name} NodeAddr={address} NodeHostName={name} CPUs=16 RealMemory=16000 State=UNKNOWN"
        f"{' Gres=gpu:a100:2' if name.endswith('2') else ''}\n"
        for name, address in lab.node_addresses.items()
    )
    every = ",".join(lab.nodes)
    lab.conf.write_text(
        f"""\
ClusterName=lab
SlurmctldHost={lab.head}({lab.controller_host})
SlurmctldPort={lab.ports["ctld"]}
SlurmdPort={lab.ports["d"]}
# Otherwise they listen on every address of the machine; they take the one that their own host name means.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again (120 s otherwise, 5 at least).
AuthInfo=socket={lab.munge_socket},cred_expire=5
StateSaveLocation={lab.root}/state
SlurmdSpoolDir={lab.root}/spool/%n
SlurmctldPidFile={lab.root}/slurmctld.pid
SlurmdPidFile={lab.root}/slurmd-%n.pid
# Nodes claim more cores than the machine has.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
ReturnToService=2
MailProg=/bin/true
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
GresTypes=gpu
KillWait=2
# How long a command tries a controller that is down.
MessageTimeout=2
MinJobAge={lab.min_job_age}
{storage}{nodes}\
PartitionName=debug Nodes={every} Default=YES MaxTime=01:00:00 DefaultTime=00:30:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=long Nodes={every} MaxTime=7-00:00:00 DefaultTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes={every} MaxTime=UNLIMITED DefaultTime=01:00:00 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes={every} MaxTime=01:00:00 PriorityTier=100 PreemptMode=OFF State=UP
PartitionName=closed Nodes={every} MaxTime=01:00:00 PriorityTier=10 PreemptMode=OFF State=DOWN
"""
    )
    plugin = "CgroupPlugin=cgroup/v1\n" if Path("/sys/fs/cgroup/freezer").exists() else "CgroupPlugin=autodetect\n"
    (lab.root / "cgroup.conf").write_text(plugin + "CgroupAutomount=no\nConstrainCores=no\n")
    # Slurm wants a device file for each GPU; any file will do.
    for number in range(2):
        (lab.root / f"gpu{number}").touch()
    (lab.root / "gres.conf").write_text(f"NodeName={lab.nodes[1]} Name=gpu Type=a100 File={lab.root}/gpu[0-1]\n")


def write_slurmdbd(lab: SlurmLab, password: str) -> None:
    """slurmdbd.conf, which Slurm wants to be readable for its own user only."""
    path = lab.root / "slurmdbd.conf"
    path.touch(mode=0o600)
    path.write_text(
        f"""\
AuthType=auth/munge
AuthInfo=socket={lab.munge_socket}
DbdHost=localhost
DbdPort={lab.ports["dbd"]}
SlurmUser=root
PidFile={lab.root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={lab.ports["sql"]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""
    )


def write_sshd(lab: SlurmLab, name: str, addresses: list[str]) -> None:
    """An sshd of its own: own host key, keys from a directory of root's, nothing of /etc/ssh."""
    listen = "".join(f"ListenAddress {address}\n" for address in addresses)
    (lab.root / f"ssh/{name}.conf").write_text(
        f"""\
{listen}HostKey {lab.root}/ssh/host_key
PidFile none
UsePAM yes
PubkeyAuthentication yes
PasswordAuthentication {"yes" if lab.passwords and name == "login" else "no"}
KbdInteractiveAuthentication no
PermitRootLogin no
AuthorizedKeysFile {lab.root}/keys/%u
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
X11Forwarding no
PrintMotd no
PrintLastLog no
MaxSessions 200
MaxStartups 200
LogLevel VERBOSE
SetEnv SLURM_CONF={lab.conf}
Subsystem sftp internal-sftp
"""
    )
