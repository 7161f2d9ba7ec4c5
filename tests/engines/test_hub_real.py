"""A hub whose servers are containers of a real engine: signed in, started, entered through the proxy, stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import requests

from batchhub.auth.dictionary import hash_password
from tests.e2e import small_app
from tests.e2e.parts import HubUnderTest, python_config, wait_until
from tests.e2e.test_fakesched import ADA, PASSWORDS, Program
from tests.engines.engines import PERSON, Engine
from tests.needs import need_program


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_server_in_a_container(engine: Engine, tmp_path: Path) -> None:
    need_program("sudo", "sudo")
    app = engine.home / "small_app.py"
    shutil.copy(small_app.__file__, app)
    app.chmod(0o755)
    templates = [] if engine.limits else [str(Path(__file__).parent / "templates")]
    values = {
        "BatchHub.authenticator_class": "dictionary",
        "DictionaryAuthenticator.users": {ADA: hash_password(PASSWORDS[ADA])},
        "BatchHub.template_dirs": templates,
        "BatchHub.clusters": {
            "box": {
                "scheduler": engine.flavour,
                "scheduler_options": engine.options,
                "accounts": {ADA: PERSON},
                "local": {"sudo": True},
            }
        },
        "BatchHub.applications": {
            "small": {
                "argv": ["/usr/bin/python3", str(app), "{ip}", "{port}", "{token_file}"],
                "ready_path": "{base_url}api",
                "guard_path": "{base_url}status",
            }
        },
        "BatchHub.profiles": [
            {
                "name": "small",
                "application": "small",
                "directives": list(engine.directives),
                "fields": {"cores": {}, "image": {"choices": {str(engine.options["image"]): "The lab's"}}},
            }
        ],
        "Watching.fast": 0.3,
        "Watching.slow": 0.3,
        "Starting.first_word": 1.0,
    }
    hub = HubUnderTest(tmp_path, python_config(values))
    try:
        hub.start()
        ada = Program(hub, ADA)
        # An image that is not offered is no image; nothing of the form is free text on the engine's command line.
        assert ada.start(cores="1", image="--privileged").status_code == 400
        assert ada.start(cores="1", image=str(engine.options["image"])).status_code in {201, 202}
        ada.until("ready")
        (container,) = engine.run("ps", "--quiet", "--filter", f"label=batchhub.account={PERSON}").split()

        def entered() -> bool:
            answer = ada.session.get(f"{hub.url}/user/{ADA}/pid", headers={"Accept": "text/html"}, timeout=20)
            return answer.status_code == 200 and answer.text.isdigit()

        wait_until(entered, 60, f"she is let in\n{hub.logs()}")
        shown = engine.run("container", "inspect", container)
        (token,) = (engine.home / ".batchhub/jobs").glob("*/token")
        assert token.read_text().strip() not in shown
        ada.stop()
        assert ada.until("ended")["outcome"] == "stopped"
        assert not engine.run("ps", "--quiet", "--filter", f"label=batchhub.account={PERSON}")
        with pytest.raises(AssertionError):
            assert requests.get(f"{hub.url}/user/{ADA}/pid", timeout=20).text.isdigit()
    finally:
        hub.stop()
