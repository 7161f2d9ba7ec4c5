"""Against OpenSSH's sshd, with accounts whose login shells are bash, dash, tcsh and fish."""

import asyncio
import os
import socket
from pathlib import Path

import asyncssh
import pytest

from batchhub.core.errors import BadInput, Denied, NotFound, Unreachable
from batchhub.core.ports import Command, Completed
from tests.sshd import Sshd
from tests.transport.conftest import SHELLS, ssh_transport
from tests.transport.test_local import alive
from tests.transport.test_shell import HARD

USERS = tuple(f"bht-{shell}" for shell in SHELLS)


@pytest.mark.parametrize("user", USERS)
async def test_arguments_and_input_arrive_literally(sshd: Sshd, user: str) -> None:
    async with ssh_transport(sshd) as (transport, _):
        done = await transport._execute(Command(("/usr/bin/printf", "%s\\0", *HARD)), b"", user)
        assert done.out.split(b"\0")[:-1] == [os.fsencode(part) for part in HARD]
        text = "#!/bin/bash\n#SBATCH -J 'x'\necho \"$(date)\" `id` !x \\\\\nno newline at the end"
        assert await transport.run(Command(("cat",), stdin=text), user) == Completed(0, text)
        big = "0123456789abcdef" * 200_000
        assert (await transport.run(Command(("cat",), stdin=big), user)).out == big


@pytest.mark.parametrize("user", USERS)
async def test_codes_signals_and_both_outputs(sshd: Sshd, user: str) -> None:
    async with ssh_transport(sshd) as (transport, _):
        done = await transport.run(Command(("sh", "-c", "id -un; echo bad >&2; exit 153")), user)
        assert done == Completed(153, f"{user}\n", "bad\n")
        done = await transport.run(Command(("sh", "-c", "echo begun; kill -KILL $$")), user)
        assert (done.code, done.out, done.timed_out) == (None, "begun\n", False)
        assert (await transport.run(Command(("batchhub-no-such-program",)), user)).code == 127


@pytest.mark.parametrize(
    ("user", "name"), [("bht-bash", ".bashrc"), ("bht-tcsh", ".cshrc"), ("bht-fish", ".config/fish/config.fish")]
)
async def test_start_up_noise_is_not_the_command_s(sshd: Sshd, people: dict[str, Path], user: str, name: str) -> None:
    start_up = people[user] / name
    start_up.parent.mkdir(parents=True, exist_ok=True)
    before = start_up.read_text() if start_up.exists() else None
    start_up.write_text(
        "echo 'Welcome to the cluster!'\nprintf 'no newline'\nsh -c 'echo quota exceeded >&2'\n" + (before or "")
    )
    try:
        async with ssh_transport(sshd) as (transport, _):
            assert await transport.run(Command(("echo", "42")), user) == Completed(0, "42\n", "")
    finally:
        start_up.unlink() if before is None else start_up.write_text(before)


async def test_a_login_shell_that_runs_nothing(sshd: Sshd, people: dict[str, Path]) -> None:
    start_up = people["bht-bash"] / ".bashrc"
    before = start_up.read_text() if start_up.exists() else ""
    start_up.write_text("echo 'This account has expired.' >&2\nexit 1\n")
    try:
        async with ssh_transport(sshd) as (transport, _):
            with pytest.raises(Unreachable, match=r"not run for bht-bash on 127\.0\.0\.1: This account has expired\."):
                await transport.run(Command(("echo", "42")), "bht-bash")
    finally:
        start_up.write_text(before)


@pytest.mark.parametrize("user", USERS)
async def test_the_deadline_leaves_nothing_behind(sshd: Sshd, user: str) -> None:
    tag = f"batchhub-{os.getpid()}-{user}"
    async with ssh_transport(sshd) as (transport, pool):
        text = "sh -c 'sleep 300; :' $0 & echo begun; wait; :"
        done = await transport.run(Command(("sh", "-c", text, tag), deadline=0.5), user)
        assert (done.code, done.out, done.timed_out) == (None, "begun\n", True)
        assert not alive(tag)
        assert (await transport.run(Command(("echo", "next")), user)).out == "next\n"
        assert len(pool.connections()) == 1


async def test_the_deadline_s_kill_cannot_be_ignored(sshd: Sshd) -> None:
    tag = f"batchhub-{os.getpid()}-stubborn"
    async with ssh_transport(sshd) as (transport, _):
        text = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 300; :' $0 & wait; :"
        done = await transport.run(Command(("sh", "-c", text, tag), deadline=0.3), "bht-bash")
        assert done.timed_out
        assert not alive(tag)


async def test_a_cancelled_run_frees_its_place(sshd: Sshd, people: dict[str, Path]) -> None:
    async with ssh_transport(sshd, max_sessions=1) as (transport, _):
        assert (await transport.run(Command(("true",)), "bht-dash")).code == 0
        task = asyncio.ensure_future(transport.run(Command(("sleep", "3")), "bht-dash"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await transport.run(Command(("true",)), "bht-dash")).code == 0


async def test_output_is_bounded(sshd: Sshd) -> None:
    async with ssh_transport(sshd) as (transport, _):
        command = Command(("sh", "-c", "head -c 3000000 /dev/zero; echo end >&2"), output_limit=1000)
        done = await transport.run(command, "bht-dash")
        assert (done.code, len(done.out), done.err, done.truncated) == (0, 1000, "end\n", True)


async def test_the_environment(sshd: Sshd, people: dict[str, Path]) -> None:
    start_up = people["bht-bash"] / ".bashrc"
    before = start_up.read_text() if start_up.exists() else ""
    start_up.write_text("export SQUEUE_FORMAT=%i SLURM_CONF=/x SLURM_CLUSTERS=all\n" + before)
    try:
        async with ssh_transport(sshd, path="/opt/slurm/bin") as (transport, _):
            command = Command(("env",), env={"LC_ALL": "C"}, unset=("SQUEUE_*", "SLURM_*"), keep=("SLURM_CONF",))
            lines = (await transport.run(command, "bht-bash")).out.splitlines()
            assert {"SLURM_CONF=/x", "LC_ALL=C"} <= set(lines)
            assert not [row for row in lines if row.startswith(("SQUEUE_", "SLURM_CL"))]
            assert [row for row in lines if row.startswith("PATH=/opt/slurm/bin:/")]
    finally:
        start_up.write_text(before)


async def test_by_sudo_over_the_service_s_connection(sshd: Sshd) -> None:
    async with ssh_transport(sshd, sudo=True) as (transport, pool):
        for user in USERS:
            done = await transport.run(
                Command(("sh", "-c", 'id -un; echo "$1"; cat', "sh", "a'b\n!x"), stdin="in"), user
            )
            assert done == Completed(0, f"{user}\na'b\n!x\nin")
        assert [view.identity for view in pool.connections()] == [""]
        with pytest.raises(NotFound):
            await transport.home("bht-no-such")
        tag = f"batchhub-{os.getpid()}-ssh-sudo"
        done = await transport.run(Command(("sh", "-c", "sleep 300; :", tag), deadline=0.5), "bht-bash")
        assert done.timed_out
        assert not alive(tag)


async def test_users_it_never_acts_as(sshd: Sshd) -> None:
    async with ssh_transport(sshd) as (transport, _):
        with pytest.raises(Denied):
            await transport.run(Command(("id",)), "root")
        with pytest.raises(BadInput):
            await transport.run(Command(("id",)), "a b")


async def test_a_wrong_host_key_is_refused(sshd: Sshd) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    async with ssh_transport(sshd, known_hosts=f"[127.0.0.1]:{sshd.port} {other}") as (transport, _):
        with pytest.raises(Unreachable, match=r"Host key of 127\.0\.0\.1 is not the known one: it offers SHA256:"):
            await transport.run(Command(("id",)))


async def test_an_unknown_host_is_refused_and_a_file_of_lines_is_read(sshd: Sshd, tmp_path: Path) -> None:
    lines = tmp_path / "known_hosts"
    lines.write_text("# nothing\n")
    async with ssh_transport(sshd, known_hosts=str(lines)) as (transport, _):
        with pytest.raises(Unreachable, match="is not the known one"):
            await transport.run(Command(("id",)))
    lines.write_text(sshd.known_hosts)
    async with ssh_transport(sshd, known_hosts=str(lines)) as (transport, _):
        assert (await transport.run(Command(("true",)))).code == 0
    async with ssh_transport(sshd, known_hosts=str(tmp_path / "none")) as (transport, _):
        with pytest.raises(Unreachable, match=r"none, needed to reach 127.0.0.1, cannot be read: No such file"):
            await transport.run(Command(("id",)))


async def test_insecure_connects_and_warns(sshd: Sshd, caplog: pytest.LogCaptureFixture) -> None:
    async with ssh_transport(sshd, known_hosts="", insecure=True) as (transport, _):
        assert (await transport.run(Command(("true",)))).code == 0
    assert "NOT verified" in caplog.text


async def test_refused_keys_ports_and_names_in_words(sshd: Sshd) -> None:
    async with ssh_transport(sshd, client_keys=(str(sshd.directory / "none"),)) as (transport, _):
        with pytest.raises(Unreachable, match=r"none, needed to reach 127.0.0.1, cannot be read: No such file"):
            await transport.run(Command(("id",)))
    async with ssh_transport(sshd) as (transport, _):
        with pytest.raises(Unreachable, match=r"^127\.0\.0\.1 refused the key of user bht-stranger\.$"):
            await transport.run(Command(("id",)), "bht-stranger")
    async with ssh_transport(sshd, port=1, known_hosts="x ssh-ed25519 " + sshd.host_public.split()[1]) as (
        transport,
        _,
    ):
        with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:1: Connection refused\.$"):
            await transport.run(Command(("id",)))
        with pytest.raises(Unreachable, match=r"Connection refused\. So since 03:04:05 UTC; next try in 1 s\.$"):
            await transport.run(Command(("id",)))
    async with ssh_transport(sshd, host="login1.invalid") as (transport, _):
        with pytest.raises(Unreachable, match=r"^The name login1\.invalid cannot be resolved"):
            await transport.run(Command(("id",)))


async def test_a_key_path_may_hold_the_user(sshd: Sshd) -> None:
    key = sshd.directory / "key-bht-dash"
    key.write_text(Path(sshd.client_key).read_text())
    key.chmod(0o600)
    async with ssh_transport(sshd, client_keys=(str(sshd.directory / "key-{username}"),)) as (transport, _):
        assert (await transport.run(Command(("id", "-un")), "bht-dash")).out == "bht-dash\n"


async def test_a_server_that_never_answers(sshd: Sshd) -> None:
    """The deadline covers the connection as well."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with ssh_transport(sshd, port=port) as (transport, _):
            with pytest.raises(Unreachable, match=r"had no time for a command within 0\.2 s"):
                await transport.run(Command(("id",), deadline=0.2))
        async with ssh_transport(sshd, port=port, connect_timeout=0.2) as (transport, _):
            with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:\d+ .*"):
                await transport.run(Command(("id",)))
