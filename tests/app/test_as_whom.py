"""What the configuration says of accounts and certificates reaches everything that acts as somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchhub.app.hub import Hub
from batchhub.app.plan import plan_hub
from batchhub.app.site import read_site
from batchhub.app.ssh_ca import AuthorityFiles
from batchhub.app.state import StateDirectory
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.config import traits
from batchhub.core.errors import ConfigError, Denied
from batchhub.core.model import UserName

SSH = {"host": "127.0.0.1", "port": 1, "known_hosts": "/k"}
FORM = {"cores": ["1"], "memory": ["1G"], "walltime": ["1h"]}


def a_trait(cls: type[Any]) -> Any:
    return cls(first_word=0.01) if cls is traits.Starting else cls()


def hub_of(path: Path, cluster: dict[str, Any]) -> Hub:
    state = StateDirectory.open(str(path / "state"))
    site = read_site(traits.BatchHub(clusters={"hpc": cluster}))
    return Hub(plan_hub(a_trait, site, state, {"dictionary": DictionaryAuthenticator()}))


async def test_a_server_is_its_owners_account(tmp_path: Path) -> None:
    hub = hub_of(tmp_path, {"transport": "ssh", "ssh": SSH, "accounts": {"ann": "asmith", "zoe": "ben"}})
    await hub.store.open()
    try:
        for name in ("ann", "cid"):
            await hub.service.spawn(UserName(name), "", "jupyterlab", FORM)
        with pytest.raises(Denied, match="another person's"):
            await hub.service.spawn(UserName("ben"), "", "jupyterlab", FORM)
        accounts = {row.user: row.account for row in await hub.store.live_servers()}
        assert accounts == {"ann": "asmith", "cid": "cid"}
    finally:
        await hub.close()


async def test_a_hub_signs_where_a_cluster_says_so(tmp_path: Path) -> None:
    cluster = {"transport": "ssh", "ssh": {**SSH, "service_username": "hub", "sign_in": "ca"}}
    with pytest.raises(ConfigError, match="ssh-ca create"):
        hub_of(tmp_path, cluster)
    AuthorityFiles(StateDirectory.open(str(tmp_path / "state"))).create()
    hub = hub_of(tmp_path, cluster)
    transport: Any = hub._transports["hpc"]
    assert "ssh-ed25519-cert" in transport._inner._pool._sign("ann").certificate
    await hub.close()


def test_the_shown_script_is_the_accounts(inside) -> None:
    clusters = {"here": {"scheduler": "slurm", "accounts": {"ann": "asmith"}, "account": ""}}
    inside.config(BatchHub__clusters=clusters)
    assert "/home/asmith/.batchhub" in inside("render", "--user=ann").stdout
    refused = inside("render", "--user=ben")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "ben has no account on here" in refused.stderr
    refused = inside("render")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Say with --user=NAME" in refused.stderr
