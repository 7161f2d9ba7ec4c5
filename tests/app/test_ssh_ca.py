"""Certificates of the hub's authority, judged by OpenSSH's own sshd, ssh-keygen and `batchhub ssh-ca`."""

from __future__ import annotations

import getpass
import logging
import re
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from batchhub.app.proxying import plan_proxy
from batchhub.app.reach import make_transport, make_tunnels
from batchhub.app.site import Site
from batchhub.app.ssh_ca import AuthorityFiles, site_authority
from batchhub.app.ssh_ca_command import _PAGE
from batchhub.app.state import StateDirectory, utc_now
from batchhub.config import traits
from batchhub.config.clusters import ClusterSettings, read_clusters
from batchhub.core.errors import BadInput, ConfigError, Denied, TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.core.ports import Command
from batchhub.transport.certificates import Authority, Purpose, Terms
from tests.needs import need_program
from tests.sshd import Sshd, accounts
from tests.tunnel.conftest import Recorder, echo, serving

ANN, BEN, HUB = "bht-ca-ann", "bht-ca-ben", "bht-ca-hub"
COMMANDS = Terms(Purpose.COMMANDS, timedelta(minutes=5))


@pytest.fixture(scope="module")
def people() -> Iterator[None]:
    with accounts(dict.fromkeys((ANN, BEN, HUB), "/bin/sh")):
        yield


@pytest.fixture
def files(tmp_path: Path) -> AuthorityFiles:
    made = AuthorityFiles(StateDirectory.open(str(tmp_path / "state")))
    made.create()
    return made


@contextmanager
def trusting(files: AuthorityFiles, directory: Path) -> Iterator[Sshd]:
    """An sshd that nobody has a key for, which trusts the authority and reads its list."""
    trusted, revoked = directory / "trusted", directory / "revoked"
    trusted.write_text("\n".join(files.public_lines()) + "\n")
    revoked.write_bytes(b"")
    server = Sshd(extra=[f"TrustedUserCAKeys {trusted}", f"RevokedKeys {revoked}"])
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def sshd(people: None, files: AuthorityFiles, tmp_path: Path) -> Iterator[Sshd]:
    with trusting(files, tmp_path) as server:
        yield server


def cluster_of(server: Sshd, **more: Any) -> ClusterSettings:
    ssh = {
        "host": server.host,
        "port": server.port,
        "known_hosts": server.known_hosts,
        "service_username": HUB,
        "sign_in": "ca",
        "node": {"port": server.port},
        **more.pop("ssh", {}),
    }
    (cluster,) = read_clusters({"hpc": {"transport": "ssh", "ssh": ssh, **more}})
    return cluster


async def whoami(server: Sshd, authority: Authority, user: str | None, **ssh: Any) -> str:
    transport = make_transport(cluster_of(server, ssh=ssh), utc_now, authority)
    try:
        return (await transport.run(Command(("id", "-un"), deadline=60.0), user)).out.strip()
    finally:
        await transport.close()


def authority_of(files: AuthorityFiles, clock: Callable[[], datetime] = utc_now) -> Authority:
    return Authority(files.seed, clock)


# ---------------------------------------------------------------- who gets in


async def test_everybody_is_who_the_certificate_names(sshd: Sshd, files: AuthorityFiles) -> None:
    authority = authority_of(files)
    assert [await whoami(sshd, authority, user) for user in (ANN, BEN, None)] == [ANN, BEN, HUB]
    log = "".join(sshd.log)
    assert f"ID batchhub/commands/{ANN} (serial " in log


async def test_another_principal_is_refused(sshd: Sshd, files: AuthorityFiles) -> None:
    """A certificate of Ann's, shown for Ben."""
    made = authority_of(files).sign(ANN, COMMANDS)
    credential = (asyncssh.import_private_key(made.key), asyncssh.import_certificate(made.certificate))
    options: dict[str, Any] = {"known_hosts": None, "config": None, "agent_path": None, "client_keys": [credential]}
    async with asyncssh.connect(sshd.host, sshd.port, username=ANN, **options) as connection:
        assert (await connection.run("id -un")).stdout == f"{ANN}\n"
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(sshd.host, sshd.port, username=BEN, **options)


@pytest.mark.parametrize("late", [timedelta(minutes=10), timedelta(days=400), -timedelta(minutes=10)])
async def test_out_of_its_time_it_is_refused(sshd: Sshd, files: AuthorityFiles, late: timedelta) -> None:
    with pytest.raises(Unreachable, match=f"refused the key of user {ANN}"):
        await whoami(sshd, authority_of(files, lambda: utc_now() - late), ANN)


async def test_it_works_for_a_login_node_whose_clock_is_behind(sshd: Sshd, files: AuthorityFiles) -> None:
    assert await whoami(sshd, authority_of(files, lambda: utc_now() + timedelta(seconds=40)), ANN) == ANN


async def test_another_authority_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    other = AuthorityFiles(StateDirectory.open(str(tmp_path / "other")))
    other.create()
    with pytest.raises(Unreachable, match="refused the key"):
        await whoami(sshd, authority_of(other), ANN)


async def test_from_another_network_it_is_refused(sshd: Sshd, files: AuthorityFiles) -> None:
    assert await whoami(sshd, authority_of(files), ANN, certificate_sources=["127.0.0.0/8", "fd00::/8"]) == ANN
    with pytest.raises(Unreachable):
        await whoami(sshd, authority_of(files), ANN, certificate_sources=["192.0.2.0/24"])


async def test_nothing_is_signed_for_root(files: AuthorityFiles) -> None:
    for name in ("root", "Root", "root@hpc", "ROOT"):
        with pytest.raises(Denied):
            authority_of(files).sign(name, COMMANDS)
    for name in ("", "ann,root", "ann\nroot", "*", "-x", "ann root"):
        with pytest.raises(BadInput):
            authority_of(files).sign(name, COMMANDS)


async def test_a_hub_that_runs_as_root_gets_no_certificate_as_itself(sshd: Sshd, files: AuthorityFiles) -> None:
    if sshd.me != "root":
        pytest.skip("this is not root")
    with pytest.raises(Denied, match="root"):
        await whoami(sshd, authority_of(files), None, service_username="")


# ---------------------------------------------------------------- what it may do


async def test_a_command_s_certificate_opens_no_stream(sshd: Sshd, files: AuthorityFiles) -> None:
    transport: Any = make_transport(cluster_of(sshd), utc_now, authority_of(files))
    try:
        async with serving(echo) as port:
            with pytest.raises(TunnelError, match="forbids connections"):
                await transport._pool.open_stream(ANN, Recorder, "127.0.0.1", port)
    finally:
        await transport.close()


@asynccontextmanager
async def tunnel_of(server: Sshd, authority: Authority, **more: Any) -> AsyncIterator[Any]:
    (tunnel,) = make_tunnels((cluster_of(server, **more),), utc_now, authority=authority).values()
    try:
        yield tunnel
    finally:
        await tunnel.close()


@pytest.mark.parametrize(
    ("more", "who"),
    [
        ({"tunnel": "login"}, {HUB}),
        ({"tunnel": "login", "ssh": {"tunnel_as_user": True}}, {ANN}),
        ({"tunnel": "node"}, {HUB, ANN}),
    ],
)
async def test_a_tunnel_s_certificate_carries_streams_and_runs_nothing(
    sshd: Sshd, files: AuthorityFiles, more: dict[str, Any], who: set[str]
) -> None:
    async with serving(echo) as port, tunnel_of(sshd, authority_of(files), **more) as tunnel:
        made = await tunnel.open(Recorder, Endpoint("127.0.0.1", port), ANN)
        made.stream.write(b"hello")
        await made.until(lambda: made.data == b"hello")
        assert set(re.findall(r"ID batchhub/tunnel/(\S+) ", "".join(sshd.log))) == who
        pool = tunnel._pool if tunnel.kind == "login" else tunnel._login
        answer = await pool.execute(None, lambda left: "id -un", b"", 4096, 60.0)
        assert (answer.code, answer.out) == (1, b"")


def test_nothing_else_is_granted(files: AuthorityFiles, tmp_path: Path) -> None:
    need_program("ssh-keygen", "openssh-client")
    shown = {}
    for purpose in Purpose:
        made = authority_of(files).sign(ANN, Terms(purpose, timedelta(minutes=5), ("10.0.0.0/8",)))
        path = tmp_path / f"{purpose.value}-cert.pub"
        path.write_text(made.certificate + "\n")
        done = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True)
        shown[purpose] = done.stdout.partition("Critical Options:")[2].split()
        assert made.key not in repr(made)
        assert re.search(rf"Principals: *\n *{ANN}\n", done.stdout)
    assert shown[Purpose.COMMANDS] == ["source-address", "10.0.0.0/8", "Extensions:", "(none)"]
    assert shown[Purpose.TUNNEL] == [
        *("force-command", "false", "source-address", "10.0.0.0/8"),
        *("Extensions:", "permit-port-forwarding"),
    ]


# ---------------------------------------------------------------- revoking


async def test_who_is_revoked_is_refused_until_restored(sshd: Sshd, files: AuthorityFiles, tmp_path: Path) -> None:
    authority = authority_of(files)
    files.revoke([ANN])
    (tmp_path / "revoked").write_bytes(files.revoked.read_bytes())
    with pytest.raises(Unreachable, match="refused the key"):
        await whoami(sshd, authority, ANN)
    assert await whoami(sshd, authority, BEN) == BEN
    async with tunnel_of(sshd, authority, ssh={"tunnel_as_user": True}) as tunnel:
        with pytest.raises(TunnelError, match="refused the key"):
            await tunnel.open(Recorder, Endpoint("127.0.0.1", 1), ANN)
    with pytest.raises(BadInput, match="those who are: bht-ca-ann"):
        files.restore([BEN])
    files.restore([ANN])
    (tmp_path / "revoked").write_bytes(files.revoked.read_bytes())
    assert await whoami(sshd, authority, ANN) == ANN


def test_for_whom_is_revoked_nothing_is_signed_before_any_sshd_has_the_list(files: AuthorityFiles) -> None:
    state, cluster = files.state, {"host": "h", "known_hosts": "/k", "sign_in": "ca", "service_username": HUB}
    site = Site(read_clusters({"hpc": {"transport": "ssh", "ssh": cluster}}), (), {}, ())
    authority = site_authority(site, state, utc_now)
    assert authority is not None
    files.revoke([ANN])
    with pytest.raises(Denied, match=f"certificates of {ANN} are revoked"):
        authority.sign(ANN, COMMANDS)
    assert authority.sign(BEN, COMMANDS)
    files.restore([ANN])
    assert authority.sign(ANN, COMMANDS)
    # A key that cannot be read now says nothing about anybody's job.
    (state.path / "ssh_ca.key").chmod(0o644)
    with pytest.raises(Unreachable, match="can be read or written by others"):
        authority.sign(ANN, COMMANDS)


async def test_revoked_stays_revoked_through_a_rotation(people: None, files: AuthorityFiles, tmp_path: Path) -> None:
    files.revoke([ANN])
    files.rotate()
    for step in ("both", "finished"):
        if step == "finished":
            files.finish()
        place = tmp_path / step
        place.mkdir()
        with trusting(files, place) as server:
            (place / "revoked").write_bytes(files.revoked.read_bytes())
            with pytest.raises(Unreachable, match="refused the key"):
                await whoami(server, authority_of(files), ANN)
            assert await whoami(server, authority_of(files), BEN) == BEN


# ---------------------------------------------------------------- rotating


async def test_a_rotation_locks_nobody_out(sshd: Sshd, files: AuthorityFiles, tmp_path: Path) -> None:
    authority = authority_of(files)
    before = files.public_lines()
    files.rotate()
    both = files.public_lines()
    assert both[:1] == before
    assert await whoami(sshd, authority, ANN) == ANN  # sshd knows the old one alone
    (tmp_path / "trusted").write_text("\n".join(both) + "\n")
    assert await whoami(sshd, authority, ANN) == ANN
    files.finish()
    after = files.public_lines()
    assert [line.split()[1] for line in after] == [both[1].split()[1]]
    assert await whoami(sshd, authority, ANN) == ANN  # the same Authority: nothing was restarted
    (tmp_path / "trusted").write_text("\n".join(before) + "\n")
    with pytest.raises(Unreachable, match="refused the key"):
        await whoami(sshd, authority, ANN)


async def test_what_is_printed_keeps_root_and_strangers_out(
    people: None, files: AuthorityFiles, tmp_path: Path
) -> None:
    """Whole: the page as the file of keys, and its other lines, without their '#', as the end of sshd_config."""
    page = _PAGE.format(keys="\n".join(files.public_lines()))
    (tmp_path / "ca.pub").write_text(page)
    (tmp_path / "none").write_text("")
    lines = [line[1:] for line in page.splitlines() if re.match(r"#(Match| {4})", line)]
    text = "\n".join(lines).replace("/etc/ssh/batchhub_ca.pub", str(tmp_path / "ca.pub"))
    text = text.replace("/etc/ssh/batchhub_revoked", str(tmp_path / "none")).replace("PEOPLE", f"{ANN},{HUB},root")
    server = Sshd()
    try:
        with (server.directory / "config").open("a") as config:
            config.write(text + "\n")
        server.stop()
        server.restart()
        authority = authority_of(files)
        assert [await whoami(server, authority, user) for user in (ANN, None)] == [ANN, HUB]
        with pytest.raises(Unreachable, match="refused the key"):
            await whoami(server, authority, BEN)
        # As if the key were stolen: a certificate for root, which BatchHub would never sign.
        ca = asyncssh.import_private_key(_private(files))
        key = asyncssh.generate_private_key("ssh-ed25519")
        for name, let_in in ((ANN, True), ("root", False)):
            credential = (key, ca.generate_user_certificate(key, "x", principals=[name]))
            connecting = asyncssh.connect(
                server.host, server.port, username=name, known_hosts=None, config=None, client_keys=[credential]
            )
            if let_in:
                (await connecting).close()
            else:
                with pytest.raises(asyncssh.PermissionDenied):
                    await connecting
    finally:
        server.close()


def _private(files: AuthorityFiles) -> str:
    from batchhub.job.offers import key_pair

    return key_pair(files.seed()).private


# ---------------------------------------------------------------- files and command


def test_the_key_is_ours_alone(files: AuthorityFiles) -> None:
    path = files.state.path / "ssh_ca.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read or written by others"):
        files.seed()


def test_in_which_order(files: AuthorityFiles, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="already"):
        files.create()
    with pytest.raises(BadInput, match="No rotation"):
        files.finish()
    files.rotate()
    with pytest.raises(BadInput, match="under way"):
        files.rotate()
    empty = AuthorityFiles(StateDirectory.open(str(tmp_path / "empty")))
    for chore in (empty.rotate, empty.public_lines, lambda: empty.revoke(["ann"])):
        with pytest.raises(Unreachable, match="ssh-ca create"):
            chore()
    for name in ("root", "ann\nserial: 0", "", "*"):
        with pytest.raises((BadInput, Denied)):
            files.revoke([name])


def test_a_cluster_without_an_authority_is_an_error_at_start(tmp_path: Path) -> None:
    state = StateDirectory.open(str(tmp_path / "state"))
    ssh = {"host": "login1", "known_hosts": "/k", "service_username": HUB}
    (plain,) = read_clusters({"hpc": {"transport": "ssh", "ssh": ssh}})
    (signed,) = read_clusters({"hpc": {"transport": "ssh", "ssh": {**ssh, "sign_in": "ca"}}})
    assert site_authority(Site((plain,), (), {}, ()), state, utc_now) is None
    with pytest.raises(ConfigError, match=r"cluster 'hpc': sign_in = 'ca'.*ssh-ca create"):
        site_authority(Site((signed,), (), {}, ()), state, utc_now)
    assert not (state.path / "ssh_ca.key").exists()
    with pytest.raises(ConfigError, match="need an authority"):
        make_transport(signed, utc_now)


@pytest.mark.parametrize("service", ["root", ""])
def test_a_service_account_that_is_root_is_an_error_at_start(
    files: AuthorityFiles, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    ssh = {"host": "login1", "known_hosts": "/k", "sign_in": "ca", "service_username": service}
    (cluster,) = read_clusters({"hpc": {"transport": "ssh", "ssh": ssh}})
    with pytest.raises(ConfigError, match="signs nothing for root"):
        site_authority(Site((cluster,), (), {}, ()), files.state, utc_now)


def test_the_proxy_is_planned_with_the_hubs_authority(files: AuthorityFiles) -> None:
    (cluster,) = read_clusters(
        {
            "hpc": {
                "transport": "ssh",
                "ssh": {"host": "login1", "known_hosts": "/k", "sign_in": "ca", "service_username": HUB},
            }
        }
    )
    site = Site((cluster,), (), {}, ())
    plan = plan_proxy(traits.Proxy(), traits.Hub(), traits.Sessions(), files.state, site)
    assert plan.authority is not None
    made = asyncssh.import_certificate(plan.authority.sign(ANN, COMMANDS).certificate)
    signer = made.signing_key.export_public_key().decode().split()[1]
    assert signer == files.public_lines()[0].split()[1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"client_keys": ["/k"]}, "say one of them"),
        ({"node": {"client_keys": ["/k"]}}, "say one of them"),
        ({"certificate_minutes": 0.5}, "from 1 to 60"),
        ({"certificate_minutes": 600.0}, "from 1 to 60"),
        ({"certificate_sources": ["10.0.0.1/8"]}, "certificate_sources: "),
        ({"certificate_sources": ["*,!10.0.0.1"]}, "certificate_sources: "),
        ({"sign_in": "keys", "certificate_sources": ["10.0.0.0/8"]}, "means nothing"),
        ({"sign_in": "CA"}, "is not one of"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, Any], words: str) -> None:
    ssh = {"host": "login1", "known_hosts": "/k", "sign_in": "ca", **changed}
    with pytest.raises(ConfigError, match=words):
        read_clusters({"hpc": {"transport": "ssh", "ssh": ssh}})


def test_the_command(inside) -> None:
    inside.config()
    refused = inside("ssh-ca", "print")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "batchhub ssh-ca create" in refused.stderr
    created = inside("ssh-ca", "create").stdout
    assert created == inside("ssh-ca", "print").stdout
    assert re.findall(r"^ssh-ed25519 \S+ (\S+)$", created, re.MULTILINE) == ["batchhub-ca"]
    rotated = inside("ssh-ca", "rotate").stdout
    assert re.findall(r"^ssh-ed25519 \S+ (\S+)$", rotated, re.MULTILINE) == ["batchhub-ca", "batchhub-ca_next"]
    assert inside("ssh-ca", "finish").returncode == 0
    assert "RevokedKeys names must be" not in rotated
    assert "ssh_ca.krl is written" in inside("ssh-ca", "revoke", "ann", "ben").stdout
    # Who copied the new key alone would let the revoked in with it.
    assert re.search(r"RevokedKeys names must be \S+/ssh_ca\.krl as it is now", inside("ssh-ca", "rotate").stdout)
    assert inside("ssh-ca", "restore", "ann").returncode == 0
    for words in ((), ("revoke",), ("print", "x"), ("shred",)):
        assert inside("ssh-ca", *words).returncode != 0


def test_each_serial_number_is_in_the_log(files: AuthorityFiles, caplog: pytest.LogCaptureFixture) -> None:
    """As sshd's log has them too, one that is there alone was signed by a thief of the key."""
    caplog.set_level(logging.INFO)
    made = [asyncssh.import_certificate(authority_of(files).sign(ANN, COMMANDS).certificate)._serial for _ in range(20)]
    told = re.findall(rf"certificate batchhub/commands/{ANN} \(serial (\d+)\) is signed, for 5 minutes", caplog.text)
    assert [int(serial) for serial in told] == made
    assert len(set(made)) == 20
