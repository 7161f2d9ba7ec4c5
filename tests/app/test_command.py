"""Configuration and its mistakes: a sentence that says what would be right, exit status 2, never a traceback."""

from __future__ import annotations

import logging
import re

import asyncssh
import pytest

from batchhub.app.command import set_up_logging


def test_help_is_a_page_one_can_read(shell) -> None:
    shown = shell("--help")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "Usage: batchhub [options]"
    assert len(lines) < 50
    assert max(map(len, lines)) <= 120
    for command in ("hub", "proxy", "reload", "stop", "demo", "render", "db", "config", "hash-password"):
        assert re.search(rf"^  {command} +[A-Z].*\.$", shown.stdout, re.MULTILINE)
    for option in ("-f, --config=FILE", "--log-level=LEVEL", "--state-dir=DIR", "--ip=ADDRESS", "--port=PORT"):
        assert option in shown.stdout
    assert "docs/configuration.md" in shown.stdout
    assert "Equivalent to" not in shown.stdout


def test_help_all_has_every_setting(inside) -> None:
    shown = inside("--help-all").stdout
    for setting in ("--Proxy.api_port=", "--Watching.accounting_patience=", "--PAMAuthenticator.service="):
        assert setting in shown


def test_a_commands_help(inside) -> None:
    shown = inside("render", "--help").stdout
    assert shown.startswith("Usage: batchhub render [options] [NAME=VALUE …]")
    assert "--profile=NAME" in shown
    assert "--port" not in shown
    assert inside("help", "render").stdout == shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--prot=1", "--prot: there is no such option; did you mean '--port'?"),
        ("config --prot 1", "--prot: there is no such option; did you mean '--port'?"),
        ("-x", "-x: there is no such option"),
        ("--Proxy.prot=1", "--Proxy.prot: there is no such setting; did you mean 'port'?"),
        ("--Proxi.port=1", "--Proxi: there is no such section; did you mean 'Proxy'?"),
        ("hub --Command.log_word=x", "--Command.log_word: there is no such setting; did you mean 'log_words'?"),
        ("config --Proxy.port=abc", "'abc'"),
        ("config --log-level=loud", "--log-level=loud: one of debug, info, warning, error is expected."),
        ("config --config=nowhere.py", "The configuration file nowhere.py does not exist."),
        ("rendre", "There is no command 'rendre'; did you mean 'render'?"),
        ("--log-level=info render", "The command comes first: batchhub render"),
        ("db upgarde", "batchhub db upgrade, batchhub db downgrade REVISION, batchhub db backup FILE, or"),
        ("config --BatchHub.authenticator_class=pamm", "'pamm' is not known; did you mean 'pam'?"),
        ("config --BatchHub.authenticator_class=os:path", "is not an Authenticator class"),
        ("config --BatchHub.authenticator_class=no.such:Thing", "cannot be imported"),
    ],
)
def test_a_mistake_on_the_command_line(inside, words: str, sentence: str) -> None:
    inside.config()
    done = inside(*words.split())
    assert sentence in done.stderr
    assert done.stderr.startswith("batchhub: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert done.returncode == (1 if words == "db upgarde" else 2)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("c.Proxy.prot = 1", "c.Proxy.prot: there is no such setting; did you mean 'port'?"),
        ("c.Proxi.port = 1", "c.Proxi: there is no such section; did you mean 'Proxy'?"),
        ("c.BatchHub.statedir = 'x'", "did you mean 'state_dir'?"),
        ("c.DictionaryAuthenticator.allowed_user = {'a'}", "did you mean 'allowed_users'?"),
        ("c.Proxy.port = 'abc'", "port"),
        (
            "c.JupyterHub.port = 1",
            "c.JupyterHub: there is no such section; it is JupyterHub's, and docs/from-jupyterhub.md",
        ),
        ("c.SlurmSpawner.req_nprocs = '1'", "docs/from-jupyterhub.md says what stands here in its place."),
        ("c.BatchHub.authenticator_class = 'LDAP'", "did you mean 'ldap'?"),
        (
            "c.BatchHub.authenticator_class = 'jupyterhub.auth:PAMAuthenticator'",
            "most of JupyterHub's have a name here",
        ),
        ("c.BatchHub.db_url = 'postgres://u:secret@h/d'", "it looks like 'sqlite:////var/lib"),
        ("c.BatchHub.profiles = [{'name': 'lab', 'environment': {'A-B': 'x'}}]", "'A-B' is not the name of a variable"),
        (
            "c.BatchHub.profiles = [{'name': 'lab', 'prologue': 'a\\r\\nb'}]",
            "holds a control character (a carriage return?)",
        ),
        ("c.Proxy.port = 80443", "'port' trait of a Proxy instance should not be greater than 65535"),
        ("c.Sessions.idle_hours = 0.0", "Sessions.idle_hours: 0.0 is not from 0.01 to 100000."),
        ("c.BatchHub.keep_ended_days = -1", "'keep_ended_days' trait of a BatchHub instance should not be less than 0"),
        ("c.BatchHub.pre_spawn_hook = 3", "pre_spawn_hook"),
        ("c.Proxy.redirect_port = 80", "A port that redirects to https needs a certificate and its key."),
        ("c.Proxy.ssl_cert = 'x'", "TLS needs both a certificate and its key."),
        ("c.Proxy.ssl_cert = c.Proxy.ssl_key = '/nowhere/key.pem'", "/nowhere/key.pem"),
        ("c.BatchHub.subdomain_host = 'https://hub.example.org'", "neither c.Proxy.ssl_cert nor"),
        ("c.BatchHub.clusters['here']['tunnel'] = 'reverse'", "set c.Proxy.reverse_port (it is 0)."),
        ("c.Watching.fast = 0.01", "at least 0.2"),
        ("c.Watching.slow = 90.0", "each be at least the one before it"),
        ("def (", "batchhub_config.py, line 6: invalid syntax."),
        ("1 / 0", "batchhub_config.py, line 6: ZeroDivisionError: division by zero"),
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("c.BatchHub.clusters = {}", "No cluster is configured"),
        ("c.BatchHub.clusters = {'x': {'scheduler': 'slrum'}}", "'slrum' is not known; did you mean 'slurm'?"),
        (
            "c.BatchHub.clusters = {'x': {'transport': 'ssh', 'ssh': {'host': 'l'}}}",
            "batchhub: cluster 'x'.ssh: known_hosts is needed for l",
        ),
        ("c.BatchHub.clusters = {'x': {'schduler': 'slurm'}}", "did you mean 'scheduler'?"),
        ("c.BatchHub.clusters = {'x': {'scheduler_options': {'bindir': 'x'}}}", "did you mean 'bin_dir'?"),
        ("c.BatchHub.profiles = [{'name': 'lab', 'titel': 'x'}]", "did you mean 'title'?"),
        ("c.BatchHub.template_dirs = ['/nowhere']", "template_dirs: /nowhere is not a directory"),
        ("c.BatchHub.site_file = '/nowhere.toml'", "/nowhere.toml cannot be read: No such file or directory."),
    ],
)
def test_a_mistake_in_the_file(inside, line: str, sentence: str) -> None:
    inside.config(line)
    done = inside("config", "--check")
    assert sentence in done.stderr
    assert done.stderr.startswith("batchhub: ")
    assert done.returncode == 2


def test_files_that_a_cluster_names_are_looked_at(inside) -> None:
    door = {"host": "login", "known_hosts": "known_hosts", "client_keys": ["key"]}
    inside.config(f"c.BatchHub.clusters = {{'hpc': {{'transport': 'ssh', 'ssh': {door!r}}}}}")
    key, locked = asyncssh.generate_private_key("ssh-ed25519"), "batchhub: cluster 'hpc', ssh.client_keys: key"
    for name, text, mode, sentence in (
        ("known_hosts", "", 0o600, f"{locked} cannot be read: No such file or directory."),
        ("key", "no key", 0o600, f"{locked} cannot be used: "),
        (
            "key",
            key.export_private_key().decode(),
            0o644,
            f"{locked} cannot be used: others can read or write it (mode 0644)",
        ),
        (
            "key",
            key.export_private_key("pkcs8-pem", "secret").decode(),
            0o600,
            f"{locked} cannot be used: Passphrase must be specified",
        ),
        (
            "known_hosts",
            "login " + key.export_public_key().decode(),
            0o600,
            f"{locked} cannot be used: Passphrase must be specified",
        ),
    ):
        inside.file(name, text)
        (inside.home / name).chmod(mode)
        done = inside("config", "--check")
        assert sentence in done.stderr, (sentence, done.stderr)
        assert done.returncode == 2
    (inside.home / "key").write_bytes(key.export_private_key())
    assert "nothing is wrong" in inside("config", "--check").stdout


def test_an_authority_that_is_to_be_made_is_said(inside) -> None:
    door = {"host": "login", "known_hosts": inside.file("known_hosts", ""), "sign_in": "ca", "service_username": "hub"}
    inside.config(f"c.BatchHub.clusters = {{'hpc': {{'transport': 'ssh', 'ssh': {door!r}}}}}")
    (inside.home / "state").mkdir(mode=0o700)
    assert "`batchhub ssh-ca create` makes one" in inside("config", "--check").stdout
    inside("ssh-ca", "create")
    assert "Warning: there is no SSH" not in inside("config", "--check").stdout


def test_who_could_never_sign_in_is_said(inside) -> None:
    clusters = {"here": {"scheduler": "local", "accounts": {"Ann": "asmith"}}}
    inside.config("c.BatchHub.authenticator_class = 'pam'", BatchHub__clusters=clusters)
    said = inside("config", "--check").stdout
    assert said.startswith("Warning: Nobody can sign in: set c.PAMAuthenticator.allow_all")
    assert "Warning: cluster 'here': accounts names 'Ann', whom no way to sign in knows by this name" in said


def test_mistakes_in_the_sites_toml(inside) -> None:
    inside.config('c.BatchHub.site_file = "site.toml"')
    for text, sentence in (
        ("[clusters", "site.toml: "),
        ("[cluster.a]\n", "unknown setting 'cluster'; did you mean 'clusters'?"),
        ("[clusters.here]\n", "cluster 'here' is both in c.BatchHub.clusters and in site.toml"),
    ):
        inside.file("site.toml", text)
        done = inside("config")
        assert sentence in done.stderr
        assert done.returncode == 2


def test_the_generated_file_is_read_without_change(inside) -> None:
    generated = inside("config", "--generate")
    assert generated.returncode == 0
    compile(generated.stdout, "batchhub_config.py", "exec")
    for setting in ("# c.Proxy.port = 8000", "# c.BatchHub.db_url = ''", "# c.PAMAuthenticator.service = 'login'"):
        assert setting in generated.stdout
    assert (
        generated.stdout.count("# c.PAMAuthenticator.admin_users")
        + generated.stdout.count("# c.Authenticator.admin_users")
        >= 1
    )
    assert "c.Application." not in generated.stdout
    for way in ("OIDC", "GitHub", "LDAP", "LTI13", "Kerberos", "SSH", "Header"):
        assert f"# {way}Authenticator(" in generated.stdout
    assert (
        generated.stdout.count("# c.Authenticator.allowed_groups = ") == generated.stdout.count("allowed_users = ") == 1
    )
    inside.file("batchhub_config.py", generated.stdout + "\nc.BatchHub.clusters = {'here': {'scheduler': 'local'}}\n")
    assert inside("config", "--check").stdout.endswith("1 cluster, 1 profile; nothing is wrong.\n")


def test_the_command_line_stands_above_the_file(inside) -> None:
    inside.config("c.BatchHub.authenticator_class = 'pamm'")
    assert inside("config", "--BatchHub.authenticator_class=pam").returncode == 0


def test_an_authenticator_of_the_sites_own_is_known_by_its_section(inside) -> None:
    inside.config(
        """
from batchhub.auth.base import Authenticator
from traitlets import Unicode
class Ours(Authenticator):
    door = Unicode().tag(config=True)
    async def authenticate(self, handler, data):
        return None
c.BatchHub.authenticator_class = Ours
c.Ours.door = "front"
"""
    )
    assert inside("config").returncode == 0
    inside.config((inside.home / "batchhub_config.py").read_text() + "c.Ours.dor = 'x'\n")
    assert "c.Ours.dor: there is no such setting; did you mean 'door'?" in inside("config").stderr


def test_a_mistake_in_a_process_of_its_own(shell) -> None:
    shell.config("c.Proxy.prot = 1")
    done = shell("hub")
    assert re.fullmatch(r"batchhub: \S+/batchhub_config.py: c.Proxy.prot: .*'port'\?\n", done.stderr)
    assert done.returncode == 2


def test_a_password_is_hashed_from_stdin(shell) -> None:
    done = shell("hash-password", stdin="correct horse\n")
    assert done.stdout.startswith("$argon2id$")
    assert "correct" not in done.stdout
    empty = shell("hash-password", stdin="\n")
    assert "An empty password opens the hub to everybody." in empty.stderr
    assert empty.returncode == 1


def test_who_wants_errors_alone_has_the_audit_trail_in_the_log_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is thinned, and says that the log has each."""
    for name in ("", "batchhub.audit", "asyncssh", "alembic", "asyncio"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "setLevel", lambda level, logger=logger: levels.update({logger.name: level}))
    levels: dict[str, int] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **said: levels.update(root=said["level"]))
    set_up_logging("error")
    assert (levels["root"], levels["batchhub.audit"]) == (logging.ERROR, logging.INFO)
