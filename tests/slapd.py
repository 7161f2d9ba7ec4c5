"""A real OpenLDAP server on loopback, with people and groups, for a test."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.needs import missing, need_program
from tests.ports import free_ports
from tests.proxy.certificates import Authority

CONF = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {home}/pid
TLSCACertificateFile {ca}
TLSCertificateFile {chain}
TLSCertificateKeyFile {key}
allow bind_anon_cred bind_anon_dn
security simple_bind={simple}
database mdb
suffix "dc=example,dc=org"
rootdn "cn=root,dc=example,dc=org"
rootpw root-secret
directory {home}/db
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="ou=people,dc=example,dc=org" by dn.exact="cn=hub,dc=example,dc=org" read by self read by anonymous auth
access to * by users read by anonymous auth
"""

TREE = """
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: ou=private,dc=example,dc=org
objectClass: organizationalUnit
ou: private

dn: ou=elsewhere,dc=example,dc=org
objectClass: referral
objectClass: extensibleObject
ou: elsewhere
ref: ldap://127.0.0.1:{trap}/ou=people,dc=example,dc=org

dn: cn=hub,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: hub
userPassword: service-secret

{people}
dn: cn=hpc,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: hpc
member: uid=ann,ou=people,dc=example,dc=org
member: uid=bob,ou=people,dc=example,dc=org

dn: cn=hpc-admins,ou=groups,dc=example,dc=org
objectClass: posixGroup
cn: hpc-admins
gidNumber: 700
memberUid: bob

dn: cn=hpc-admins,ou=private,dc=example,dc=org
objectClass: groupOfNames
cn: hpc-admins
member: uid=eve,ou=people,dc=example,dc=org
"""

PERSON = """
dn: {dn},ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: {uid}
cn: {uid}
sn: Doe
userPassword: {password}
"""


@dataclass(frozen=True)
class Slapd:
    plain: str
    tls: str
    authority: Authority
    trap: socket.socket
    """Where the tree's referral leads: nobody may come here."""


@contextlib.contextmanager
def slapd(home: Path, *, simple: int = 0) -> Iterator[Slapd]:
    """``simple``: the least strength of protection a password needs."""
    program = need_program("slapd", "slapd")
    if not Path("/etc/ldap/schema/nis.schema").exists():
        missing("no /etc/ldap/schema: apt-get install slapd")
    home.mkdir()
    (home / "db").mkdir()
    authority = Authority(home)
    chain, key = authority.sign("server", "127.0.0.1")
    conf = home / "slapd.conf"
    conf.write_text(CONF.format(home=home, ca=authority.file, chain=chain, key=key, simple=simple))
    trap = socket.create_server(("127.0.0.1", 0))
    trap.setblocking(False)
    people = "".join(
        PERSON.format(dn=dn, uid=uid, password=password)
        for dn, uid, password in (
            ("uid=ann", "ann", "ann-secret"),
            ("uid=bob", "bob", "bob-secret"),
            ("uid=eve", "eve", "eve-secret"),
            ("uid=o\\,brien+cn=x", "o,brien", "comma-secret"),
            ("cn=twin1", "twin", "twin-secret"),
            ("cn=twin2", "twin", "twin-secret"),
        )
    )
    # memberOf is written by the overlay when a group is added over the wire; slapadd bypasses it.
    tree = TREE.format(trap=trap.getsockname()[1], people=people)
    tree = tree.replace("uid=o\\,brien+cn=x", "cn=o\\,brien").replace("uid: bob\n", "uid: bob\nuid: robert\n")
    tree = tree.replace(
        "userPassword: ann-secret\n", f"userPassword: ann-secret\nmemberOf: {_group('groups', 'hpc')}\n"
    )
    tree = tree.replace(
        "userPassword: eve-secret\n", f"userPassword: eve-secret\nmemberOf: {_group('private', 'hpc-admins')}\n"
    )
    (home / "tree.ldif").write_text(tree)
    done = subprocess.run(
        [need_program("slapadd", "slapd"), "-f", str(conf), "-l", str(home / "tree.ldif")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain, tls = free_ports(2)
    urls = f"ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"
    with (home / "log").open("wb") as log:
        running = subprocess.Popen([program, "-f", str(conf), "-h", urls, "-d", "0"], stdout=log, stderr=log)
    try:
        listening(running, plain, home / "log")
        yield Slapd(f"ldap://127.0.0.1:{plain}", f"ldaps://127.0.0.1:{tls}", authority, trap)
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(running.pid, 9)
            running.wait()
        trap.close()


def _group(where: str, name: str) -> str:
    return f"cn={name},ou={where},dc=example,dc=org"


def listening(running: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(600):
        assert running.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
            return
        time.sleep(0.1)
    raise AssertionError("slapd does not listen")
