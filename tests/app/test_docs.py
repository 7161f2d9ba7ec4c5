"""The documentation as somebody new uses it: every example of a configuration is read as it stands, every setting and every link is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from batchhub.app.config_command import ways_to_sign_in
from batchhub.auth.dictionary import hash_password
from batchhub.config.traits import CONCERNS
from tests.proxy.certificates import Authority

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OTHERS = re.compile(r"# jupyterhub_config|c\.(SlurmSpawner|ConfigurableHTTPProxy)\.")
ELSEWHERE = ("KerberosAuthenticator", "campus:Campus")
"""Examples that need a key of a KDC, or a package: tests/app/test_kerberos.py and test_own_dialect.py have them."""

BASE = """
c = get_config()
c.Authenticator.enable_auth_state = True
c.Proxy.reverse_port, c.Proxy.reverse_host = 8022, "hub.example.org"
"""
REGISTERED = """
c.OIDCAuthenticator.issuer, c.OIDCAuthenticator.client_id = "https://id.example.org", "batchhub"
c.OIDCAuthenticator.client_secret_file = "/etc/batchhub/oidc-secret"
"""
DOOR = {"host": "login1.example.org", "known_hosts": "/etc/batchhub/known_hosts"}
HASH = hash_password("x")
SECRETS = (
    "oidc-secret",
    "github-secret",
    "gitlab-secret",
    "google-secret",
    "globus-secret",
    "ldap-password",
    "lti-physics",
)


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def examples() -> Iterator[object]:
    for page in PAGES:
        found = blocks(page)
        own = "".join(code for kind, code in found if kind == "python" and "(Authenticator):" in code)
        for number, (kind, code) in enumerate(found):
            if any(word in code for word in ELSEWHERE):
                continue
            if kind == "toml" and re.search(r"^\[+(clusters|profiles|additions)", code, re.MULTILINE):
                yield pytest.param("", code, id=f"{page.stem}-{number}")
            elif re.search(r"^c\.\w+\.\w+ = ", code, re.MULTILINE) and not OTHERS.search(code):
                assert kind == "python", f"{page.name}: {code}"
                site = (
                    next((text for name, text in found[number:] if name == "toml"), "") if "site.toml" in code else ""
                )
                yield pytest.param(
                    own + code if " = WebAuthenticator" in code else code, site, id=f"{page.stem}-{number}"
                )


def tables(text: str) -> str:
    """An example's TOML as settings, with what it leaves out because its page has said it before."""
    read = tomllib.loads(text)
    clusters = read.get("clusters", {"hpc": {}})
    for table in clusters.values():
        if not {"scheduler", "transport"} & table.keys():
            table |= {"transport": "ssh", "ssh": DOOR | table.get("ssh", {})}
    profiles = read.get("profiles", [])
    if isinstance(profiles, dict):
        profiles = [{"name": "lab", "cluster": "hpc", **profiles}]
    if read.get("additions") and not profiles:
        profiles = [{"name": "lab", "cluster": "hpc"}]
    return f"c.BatchHub.clusters = {clusters!r}\nc.BatchHub.profiles = {profiles!r}\nc.BatchHub.additions = {read.get('additions', [])!r}\n"


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples take for granted in /etc/batchhub: keys, a certificate, secrets."""
    place = tmp_path_factory.mktemp("etc")
    (place / "tls").mkdir()
    _, key = Authority(place / "tls").sign("chain", "hub.example.org")
    key.rename(place / "tls/key.pem")
    ssh = asyncssh.generate_private_key("ssh-ed25519")
    for one in ("id_ed25519", "service_key", "id_nodes"):
        ssh.write_private_key(str(place / one))
    (place / "known_hosts").write_text(f"login {ssh.export_public_key().decode()}")
    for one in SECRETS:
        (place / one).write_text("0123456789abcdef0123456789abcdef\n")
    (place / "spark.conf").write_text("")
    for path in place.glob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return place


@pytest.mark.parametrize(("code", "site"), list(examples()))
def test_an_example_is_read_as_it_stands(inside, etc: Path, code: str, site: str) -> None:
    way = re.search(r"c\.(\w+)Authenticator\.", code)
    text = BASE + ("" if "Dummy" in code else "c.Proxy.https_in_front = True\n")
    if way and way[1] and "authenticator_class" not in code:
        text += f"c.BatchHub.authenticator_class = {way[1].lower()!r}\n"
    if "OIDCAuthenticator" in code and "client_id" not in code:
        text += REGISTERED
    if "site_file" not in code:
        text += tables(site)
    text += code.replace("$argon2id$v=19$m=65536,t=3,p=4$…", HASH)
    for file, content in (("site.toml", site), ("batchhub_config.py", text)):
        here = content.replace("/etc/ssl/example-ca.pem", "/etc/batchhub/tls/chain.pem").replace(
            "/etc/batchhub", str(etc)
        )
        (etc / file if file == "site.toml" else inside.home / file).write_text(here)
    done = inside("config", "--check")
    assert "nothing is wrong." in done.stdout, done.stderr


def test_every_setting_that_the_docs_name_is_there() -> None:
    known = {cls.__name__: set(cls.class_trait_names(config=True)) for cls in (*CONCERNS, *ways_to_sign_in())}
    for page in (page for page in PAGES if page.stem != "architecture"):  # that one names classes
        for section, name in re.findall(r"`(?:c\.)?([A-Z]\w+)\.([a-z_]+)", page.read_text(encoding="utf-8")):
            assert section not in known or name in known[section], f"{page.name}: {section}.{name}"


def test_every_link_leads_somewhere() -> None:
    anchors = {
        page: {_anchor(title) for title in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}
        for page in PAGES
    }
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]*(?:#[^)]*)?)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            assert there.is_file(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors[there], f"{page.name}: {target}"


def _anchor(title: str) -> str:
    """As GitHub and most readers of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
