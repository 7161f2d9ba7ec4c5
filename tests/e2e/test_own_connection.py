"""A whole hub that has nobody's key: it acts as each person by the password of their sign-in, or by a key that they have added.

Hub, proxy, jobs and the login node (paramiko) are real processes; the scheduler is fakesched's Slurm.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.small_site import SmallSite, small_site
from tests.e2e.test_fakesched import ADA, PASSWORDS, Program

IN_AND_OUT = "Sign out and in again"


@contextmanager
def site(directory: Path, **ssh: str) -> Iterator[SmallSite]:
    """Only the service's key is known to the login node, and ada's password."""
    more = {"SSHAuthenticator__cluster": "hpc", "SSHAuthenticator__allow_all": True}
    with small_site("slurm", directory, ssh=ssh, BatchHub__authenticator_class="ssh", **more) as made:
        made.login.keys = {"nosuch-hub": made.login.keys["*"]}
        made.login.passwords = {ADA: PASSWORDS[ADA]}
        made.hub.start()
        yield made


def sign_out(person: Program) -> None:
    page = person.session.get(f"{person.hub.url}/hub/logout", timeout=60).text
    form = {"_xsrf": Program._xsrf(page)}
    assert person.session.post(f"{person.hub.url}/hub/logout", data=form, timeout=60).ok


def kept_nowhere(made: SmallSite, secret: str) -> None:
    """No file of the hub's, its log (at debug) and its database among them, holds it."""
    for path in (*made.hub.state.rglob("*"), *made.hub.directory.glob("*.log")):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_by_the_password_of_the_sign_in(tmp_path: Path) -> None:
    with site(tmp_path, sign_in="session") as made:
        ada = Program(made.hub, ADA)
        assert ada.start(cores="1").status_code in {201, 202}
        ada.until("ready")
        before = made.entered(ada)

        # Signed out: nothing is done in her name, and what runs goes on.
        sign_out(ada)
        ada = Program(made.hub, ADA)
        assert ada.server()["phase"] == "ready"
        assert made.entered(ada) == before

        # The hub forgets it when it restarts; her session goes on, and says what is missing.
        made.hub.kill_hub()
        made.hub.start()
        assert made.entered(ada) == before
        ada.stop()
        page = ada.session.get(f"{made.hub.url}/hub/spawn/{ADA}/other?profile=small", timeout=60).text
        assert IN_AND_OUT in page
        refused = ada.session.post(f"{ada._api}s/other", json={"cores": "1"}, timeout=60)
        assert refused.status_code == 403, refused.text
        assert IN_AND_OUT in refused.json()["message"]
        assert len(made.live()) == 1, "her job cannot be cancelled without her"

        sign_out(ada)
        ada = Program(made.hub, ADA)
        ada.until("ended")
        assert made.live() == []
        kept_nowhere(made, PASSWORDS[ADA])


def test_by_a_key_of_ones_own(tmp_path: Path) -> None:
    with site(tmp_path, sign_in="managed") as made:
        ada = Program(made.hub, ADA)
        refused = ada.start(cores="1")
        assert refused.status_code == 403, refused.text
        assert "have none yet" in refused.json()["message"]
        address = f"{made.hub.url}/hub/settings/keys"

        def press(button: str) -> str:
            page = ada.session.get(address, timeout=60).text
            form = {"_xsrf": Program._xsrf(page), "cluster": "hpc", "do": button}
            return html.unescape(ada.session.post(address, data=form, timeout=60).text)

        page = press("make")
        line = re.search(r"restrict ssh-ed25519 ([A-Za-z0-9+/=]+) ", page)
        assert line is not None, page
        assert "refused the key" in press("test")
        made.login.keys[ADA] = {line[1]}
        assert "takes the key" in press("test")
        assert ada.start(cores="1").status_code in {201, 202}
        ada.until("ready")
        assert made.entered(ada)
        ada.stop()
        ada.until("ended")
        kept_nowhere(made, "OPENSSH PRIVATE KEY")
