"""A real Kerberos: MIT's KDC on loopback with two realms that trust each other, and what its clients need."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.needs import missing, need_program
from tests.ports import free_port
from tests.slapd import listening

HOME, OTHER = "HOME.TEST", "OTHER.TEST"
CROSS = f"krbtgt/{HOME}@{OTHER}"
PASSWORD = "a ticket, please"

CONF = """
[libdefaults]
default_realm = {home}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
forwardable = true
udp_preference_limit = 1
clockskew = {skew}
[realms]
{home} = {{
 kdc = 127.0.0.1:{port}
}}
{other} = {{
 kdc = 127.0.0.1:{port}
}}
[domain_realm]
localhost = {home}
"""
KDC_CONF = """
[kdcdefaults]
kdc_listen = ""
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realms}
[logging]
kdc = FILE:{d}/log
"""
REALM = """{realm} = {{
 database_name = {d}/{realm}
 key_stash_file = {d}/{realm}.stash
}}
"""


class Kdc:
    """Runs inside :func:`kdc`. All names are of this machine's ``localhost``; ``keytab`` is its HTTP service's, ``host_keytab`` its sshd's."""

    def __init__(self, directory: Path, people: tuple[str, ...]) -> None:
        self.directory = directory
        self.port = free_port()
        self.old, self.made = b"", 0.0
        self.keytab, self.host_keytab = str(directory / "http.keytab"), str(directory / "host.keytab")
        self.conf, self.strict = str(directory / "krb5.conf"), str(directory / "strict.conf")
        for path, skew in ((self.conf, 300), (self.strict, 1)):
            Path(path).write_text(CONF.format(home=HOME, other=OTHER, port=self.port, skew=skew))
        realms = "".join(REALM.format(realm=realm, d=directory) for realm in (HOME, OTHER))
        (directory / "kdc.conf").write_text(KDC_CONF.format(port=self.port, realms=realms, d=directory))
        self.env = {
            **os.environ, "KRB5_CONFIG": self.conf, "KRB5_KDC_PROFILE": str(directory / "kdc.conf"),
        }  # fmt: skip
        add = [f'addprinc -pw "{PASSWORD}" {name}' for name in (*people, "Cap", "eve/admin")]
        services = {"HTTP/localhost": self.keytab, "HTTP/other": self.keytab, "host/localhost": self.host_keytab}
        for name, file in services.items():
            add += [f"addprinc -randkey {name}", f"ktadd -k {file} {name}"]
        self._make(HOME, [*add, f"addprinc -pw cross {CROSS}"])
        self._make(OTHER, [f'addprinc -pw "{PASSWORD}" {people[0]}', f"addprinc -pw cross {CROSS}"])

    def run(self, *argv: str, stdin: str = "", cache: str = "") -> str:
        """A program of Kerberos' or its clients, with a person's cache."""
        env = {**self.env, "KRB5CCNAME": self.cache(cache)}
        done = subprocess.run(argv, check=False, input=stdin, text=True, capture_output=True, timeout=60, env=env)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def cache(self, name: str) -> str:
        """Where a person's own tickets are."""
        return f"FILE:{self.directory}/cc-{name.replace('/', '-')}"

    def kinit(self, name: str, *flags: str, cache: str = "") -> str:
        """Get tickets; the cache."""
        self.run("kinit", "-f", *flags, name, stdin=PASSWORD + "\n", cache=cache or name)
        return self.cache(cache or name)

    def _make(self, realm: str, commands: list[str]) -> None:
        self.run("/usr/sbin/kdb5_util", "-r", realm, "create", "-s", "-P", "master")
        said = self.run("/usr/sbin/kadmin.local", "-r", realm, stdin="\n".join(commands) + "\n")
        assert said.count("created") >= len([one for one in commands if one.startswith("add")]), said


@contextlib.contextmanager
def kdc(*people: str) -> Iterator[Kdc]:
    """It, and this process as a client of it."""
    program = need_program("krb5kdc", "krb5-kdc")
    need_program("kadmin.local", "krb5-admin-server")
    need_program("kinit", "krb5-user")
    need_program("curl", "curl")
    if find_spec("gssapi") is None:
        missing("the package gssapi is not installed: apt-get install libkrb5-dev gcc; pip install gssapi")
    directory = Path(tempfile.mkdtemp(prefix="batchhub-kdc-"))
    before = dict(os.environ)
    try:
        made = Kdc(directory, people)
        argv = [program, "-n", "-r", HOME, "-r", OTHER]
        with (directory / "out").open("wb") as out:
            running = subprocess.Popen(argv, stdout=out, stderr=out, env=made.env)
        try:
            listening(running, made.port, directory / "out")
            os.environ.update(KRB5_CONFIG=made.conf, KRB5_KTNAME=made.host_keytab)
            yield made
        finally:
            running.terminate()
            running.wait(20)
    finally:
        for name in ("KRB5_CONFIG", "KRB5_KTNAME"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        shutil.rmtree(directory, ignore_errors=True)
