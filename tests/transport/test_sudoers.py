"""The sudoers file, read by the real visudo and obeyed by the real sudo."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchhub.core.errors import BadInput, HubError
from batchhub.core.ports import Command
from batchhub.transport.local import LocalSettings, LocalTransport
from batchhub.transport.shell import sudo
from batchhub.transport.sudoers import sudoers
from tests.needs import need_program, need_root
from tests.sshd import accounts

SERVICE, MEMBER, ADMIN, STRANGER, TOOR = "bht-service", "bht-member", "bht-admin", "bht-outside", "bht-toor"
PEOPLE, POWER = "bht-people", "bht-power"

DISTRIBUTION = """\
Defaults env_reset, use_pty, requiretty, mail_badpass
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults env_keep += "SLURM_CONF"
"""
"""What may stand before ours, as Debian's and Red Hat's do."""
AS_SERVICE = """#!/bin/sh
# In a mount namespace of its own, so that this machine's rules and accounts are neither used nor changed.
exec unshare --mount sh -c 'cd {place} && for f in sudoers passwd group; do mount --bind $f /etc/$f || exit; done && exec setpriv --reuid {service} --regid {service} --init-groups {sudo} "$@"' sh "$@"
"""


@pytest.fixture(scope="module")
def as_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A program that is sudo, called by the service account, under our rules."""
    need_root()
    need_program("unshare", "util-linux")
    program = need_program("sudo", "sudo")
    place = tmp_path_factory.mktemp("sudoers")
    with accounts(dict.fromkeys((SERVICE, MEMBER, ADMIN, STRANGER), "/bin/sh")):
        for group, members in ((PEOPLE, f"{SERVICE},{MEMBER},{ADMIN},root"), (POWER, ADMIN)):
            subprocess.run(["groupadd", "-f", group], check=True)
            subprocess.run(["gpasswd", "-M", members, group], check=True, capture_output=True)
        try:
            rules = place / "sudoers"
            rules.write_text(f"{DISTRIBUTION}{sudoers(SERVICE, PEOPLE, ('root', POWER))}")
            rules.chmod(0o440)
            # A second name of root's, which nobody but these tests' sudo sees.
            (place / "passwd").write_text(Path("/etc/passwd").read_text() + f"{TOOR}:x:0:0::/root:/bin/sh\n")
            groups = Path("/etc/group").read_text()
            (place / "group").write_text(re.sub(rf"(?m)^({PEOPLE}:.*)$", rf"\1,{TOOR}", groups))
            wrapper = place / "sudo"
            wrapper.write_text(AS_SERVICE.format(place=place, service=SERVICE, sudo=program))
            wrapper.chmod(0o755)
            yield str(wrapper)
        finally:
            for group in (PEOPLE, POWER):
                subprocess.run(["groupdel", group], check=False)


def test_visudo_reads_it(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(sudoers("batchhub", "hpc-users"))
    done = subprocess.run([need_program("visudo", "sudo"), "-cf", rules], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rules.write_text(rules.read_text().replace("NOPASSWD:", "NOPASSWD"))
    assert subprocess.run(["visudo", "-cf", rules], capture_output=True, check=False).returncode != 0


async def test_a_member_is_acted_as_with_all_that_the_hub_does(as_service: str) -> None:
    transport = LocalTransport(LocalSettings(sudo=True, sudo_path=as_service))
    text = 'id -un; cat; echo "$1"; echo "$BH_X"'
    command = Command(("sh", "-c", text, "sh", "a 'b'\n*"), stdin="in\n", env={"BH_X": "x y"})
    done = await transport.run(command, MEMBER)
    assert (done.code, done.out) == (0, f"{MEMBER}\nin\na 'b'\n*\nx y\n")
    home = await transport.home(MEMBER)
    await transport.make_directory(f"{home}/.batchhub/jobs/x", MEMBER)
    await transport.put(f"{home}/.batchhub/jobs/x/secrets.json", b"\0\xff", MEMBER)
    assert await transport.get(f"{home}/.batchhub/jobs/x/secrets.json", MEMBER) == b"\0\xff"


@pytest.mark.parametrize("account", [STRANGER, ADMIN, SERVICE, TOOR])
async def test_whoever_is_outside_of_the_group_or_could_become_root_is_refused(as_service: str, account: str) -> None:
    transport = LocalTransport(LocalSettings(sudo=True, sudo_path=as_service))
    with pytest.raises(HubError, match="sudo does not allow it"):
        await transport.run(Command(("id",)), account)


@pytest.mark.parametrize(
    "words", [["-u", "root"], ["-u", "#0"], ["-u", TOOR], ["-u", STRANGER], ["-u", "#4294967295"], []]
)
def test_root_by_any_name_is_refused_though_it_is_in_the_group(as_service: str, words: list[str]) -> None:
    refused(as_service, *words, "--", "/bin/sh", "-c", "id")


@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh"],
        ["/bin/sh", "-i"],
        ["/bin/sh", "-s"],
        ["/usr/bin/id"],
        ["/bin/bash", "-c", "id"],
        ["-s"],
        ["-i"],
    ],
)
def test_another_command_is_refused(as_service: str, words: list[str]) -> None:
    refused(as_service, "-u", MEMBER, *words)


def test_no_group_and_no_environment_can_be_chosen(as_service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", "evil")
    refused(as_service, "-u", MEMBER, "-g", "root", "--", "/bin/sh", "-c", "id")
    refused(as_service, "-u", MEMBER, "LD_PRELOAD=/tmp/x.so", "/bin/sh", "-c", "id")
    refused(as_service, "-E", "-u", MEMBER, "--", "/bin/sh", "-c", "id")
    refused(as_service, "--preserve-env=EVIL", "-u", MEMBER, "--", "/bin/sh", "-c", "id")
    evil = ("BASH_ENV", "ENV", "LD_LIBRARY_PATH", "PYTHONPATH", "PS4", "EVIL")
    env = {"PATH": "/usr/bin:/usr/sbin", "SLURM_CONF": "/etc/of/the/site", **dict.fromkeys(evil, "evil")}
    done = subprocess.run(sudo(MEMBER, "env", as_service), env=env, capture_output=True, check=True, text=True)
    assert "evil" not in done.stdout
    assert "SLURM_CONF=/etc/of/the/site\n" in done.stdout, "which the machine's admins let pass"


def refused(as_service: str, *words: str) -> None:
    done = subprocess.run([as_service, "-n", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert "sudo: " in done.stderr


@pytest.mark.parametrize(
    "name",
    ["ALL", "PEOPLE", "%x", "#0", "!x", "a b", "a,b", "a\nb ALL=(ALL) ALL", "", "x\\", 'a"b', "+net", "a@b", "ä"],
)
def test_a_name_that_sudoers_reads_otherwise_is_refused(name: str) -> None:
    for arguments in ((name, "people"), ("hub", name)):
        with pytest.raises(BadInput, match="sudoers reads as nothing else"):
            sudoers(*arguments)
    if name:
        with pytest.raises(BadInput):
            sudoers("hub", "people", (name,))


def test_root_and_roots_friends_are_no_people() -> None:
    with pytest.raises(BadInput, match="needs no sudoers file"):
        sudoers("root", "people")
    with pytest.raises(BadInput, match="can become root"):
        sudoers("hub", "wheel")
    assert "!%docker" in sudoers("hub", "people")
