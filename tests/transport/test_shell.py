import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, Denied
from batchhub.core.ports import Command
from batchhub.transport.shell import (
    LINE_LIMIT,
    check_account,
    encode,
    line,
    script,
    strip_fence,
    sudo,
    sudo_script,
)
from tests.needs import need_program

SHELLS = ("bash", "dash", "tcsh", "fish")
FENCE = "batchhub-0123456789abcdef"
HARD = (
    "two words",
    "it's",
    'say "hi"',
    "a;b && c || d | e > f < g &",
    "first\nsecond\n",
    "$(id) `id` $HOME ${HOME}",
    "!ls !! !-1 ^a^b",
    "\\ \\\\ \\n \\0101 \\x41 \\",
    "%s %d %%",
    "* ? [a-z] {a,b} ~ #",
    "",
    "-n",
    "--",
    "größe 漢字 🧪 \u200b",
    "\t\r\x01\x7f",
    "A=b",
    os.fsdecode(b"\xff\xfe\x81\x82\x88latin \xe9"),
)


def through(shell: str, text: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Hand a line to a login shell as sshd does."""
    program = need_program(shell, shell)
    env = {"PATH": os.environ["PATH"], "HOME": "/tmp", **variables}
    return subprocess.run([program, "-c", line(text)], capture_output=True, env=env, timeout=60, check=False)


def printed(shell: str, *argv: str) -> list[bytes]:
    """The arguments as a program saw them."""
    command = Command(("/usr/bin/printf", "%s\\0", *argv))
    done = through(shell, script(command, FENCE, 30.0))
    out = strip_fence(done.stdout, FENCE)
    assert done.returncode == 0, done
    assert out is not None
    assert strip_fence(done.stderr, FENCE) == b""
    return out.split(b"\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_arguments_arrive_literally(shell: str) -> None:
    assert printed(shell, *HARD) == [os.fsencode(part) for part in HARD]


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    argv=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=6)
)
def test_any_arguments_arrive_literally(shell: str, argv: list[str]) -> None:
    assert printed(shell, *argv) == [encode(part) for part in argv]


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1).filter(lambda data: 0 not in data))
def test_any_bytes_arrive_literally(shell: str, data: bytes) -> None:
    assert printed(shell, data.decode("utf-8", "surrogateescape")) == [data]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_long_line_passes(shell: str) -> None:
    long = "x'" * 500 + "y" * 100_000
    assert printed(shell, long) == [long.encode()]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_environment_is_scrubbed(shell: str) -> None:
    command = Command(
        ("env",),
        env={"LC_ALL": "C", "BH_TEXT": "a 'b'\n$c"},
        unset=("SLURM_*", "SBATCH_*", "LSB_?_FORMAT"),
        keep=("SLURM_CONF", "SLURM_JWT"),
    )
    done = through(
        shell,
        script(command, FENCE, 30.0),
        SLURM_CONF="/etc/slurm.conf",
        SLURM_TIME_FORMAT="%s\nSLURM_JWT=no",
        SBATCH_ACCOUNT="x",
        LSB_A_FORMAT="x",
        LSB_AB_FORMAT="kept",
        OTHER="kept too",
    )
    lines = done.stdout.decode().splitlines()
    assert "SLURM_CONF=/etc/slurm.conf" in lines
    assert "LSB_AB_FORMAT=kept" in lines
    assert "OTHER=kept too" in lines
    assert "BH_TEXT=a 'b'" in lines
    assert not [row for row in lines if row.startswith(("SLURM_TIME", "SBATCH_", "LSB_A_", "SLURM_JWT"))]


def test_what_is_printed_before_the_fence_is_not_the_command_s() -> None:
    assert strip_fence(b"Welcome!\nno newline" + FENCE.encode() + b"\nanswer\n", FENCE) == b"answer\n"
    assert strip_fence(b"Welcome!\n" + FENCE.encode(), FENCE) is None
    assert strip_fence(b"", FENCE) is None


def test_a_shell_that_shows_what_it_runs_does_not_show_the_fence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-xvc", line(script(Command(("echo", "x")), FENCE, 5.0))],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "SHELLOPTS": "xtrace:verbose"},
        check=False,
    )
    assert done.stderr.count(FENCE.encode() + b"\n") == 1
    assert strip_fence(done.stdout, FENCE) == b"x\n"


def test_the_command_replaces_every_shell_so_that_one_signal_ends_it() -> None:
    for shell in SHELLS:
        program = need_program(shell, shell)
        text = script(Command(("sh", "-c", "echo $PPID")), FENCE, 30.0)
        with subprocess.Popen(
            [program, "-c", line(text)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            out, _ = process.communicate(timeout=30)
            # The parent is `timeout`, which is what became of the login shell.
            assert strip_fence(out, FENCE) == f"{process.pid}\n".encode()


def test_path_goes_in_front() -> None:
    text = script(Command(("printenv", "PATH")), FENCE, 5.0, path="/opt/slurm/bin:/opt/o'dd")
    done = through("dash", text)
    assert strip_fence(done.stdout, FENCE) == f"/opt/slurm/bin:/opt/o'dd:{os.environ['PATH']}\n".encode()


def test_a_missing_program_is_127() -> None:
    assert through("bash", script(Command(("batchhub-no-such-program",)), FENCE, 5.0)).returncode == 127


def test_the_remote_timeout_is_the_net_below_the_deadline() -> None:
    assert "timeout -k 5 32 " in script(Command(("squeue",)), FENCE, 30.2)


@pytest.mark.parametrize(
    "command",
    [
        Command(()),
        Command(("",)),
        Command(("-x",)),
        Command(("echo", "a\0b")),
        Command(("echo",), env={"A B": "x"}),
        Command(("echo",), env={"A": "\0"}),
        Command(("echo",), unset=("A;B",)),
        Command(("echo",), unset=("A_*",), keep=("$(x)",)),
    ],
)
def test_what_cannot_be_run_is_refused(command: Command) -> None:
    with pytest.raises(BadInput):
        script(command, FENCE, 5.0)


def test_bad_fences_and_long_lines_are_refused() -> None:
    with pytest.raises(BadInput):
        script(Command(("echo",)), "x; y", 5.0)
    with pytest.raises(BadInput, match="too long"):
        line("'" * LINE_LIMIT)
    with pytest.raises(BadInput, match="surrogate"):
        line("\ud800")


@pytest.mark.parametrize("name", ["alice", "a.b-c_1", "_svc", "host$", "x" * 32])
def test_good_accounts(name: str) -> None:
    assert check_account(name) == name


@pytest.mark.parametrize(
    "name", ["", "-u", "Alice", "a b", "a;b", "a\n", "../x", "x" * 33, "1a", "a@b", "a/b", "$(id)", "#0", "ä"]
)
def test_bad_accounts(name: str) -> None:
    with pytest.raises(BadInput):
        check_account(name)


def test_wide_accounts_and_root() -> None:
    assert check_account("Alice.B@EXAMPLE.org", wide=True)
    with pytest.raises(BadInput):
        check_account("a b", wide=True)
    with pytest.raises(BadInput, match="wide_accounts = true"):
        check_account("Alice")
    with pytest.raises(Denied):
        check_account("root")
    for name in ("Root", "ROOT@EXAMPLE.org", "root@hpc"):
        with pytest.raises(Denied):
            check_account(name, wide=True)


def test_sudo() -> None:
    assert sudo("alice", "echo it's") == ("sudo", "-n", "-H", "-u", "alice", "--", "/bin/sh", "-c", "echo it's")
    assert sudo_script("alice", "echo x").startswith("exec sudo -n -H -u alice -- /bin/sh -c ")
