import json

import pytest

from batchhub.core.errors import BadInput
from batchhub.job.applications import BUILT_IN, CODE_SERVER, JUPYTERLAB, MARIMO, Application, custom
from batchhub.job.files import job_files, launcher_source


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_each_built_in_is_sound(name: str) -> None:
    app = BUILT_IN[name]
    app.check()
    assert app.name == name


def test_jupyterlab_gets_its_token_from_a_file() -> None:
    document = json.loads(JUPYTERLAB.document("/user/alice/lab1/", env={"X": "1"}, ports=(40000, 40010)))
    assert document["env"] == {"JUPYTER_TOKEN": None, "JUPYTER_TOKEN_FILE": "{token_file}", "X": "1"}
    assert document["ready_path"] == "/user/alice/lab1/api"
    assert document["guard_path"] == "/user/alice/lab1/api/status"
    assert "--ServerApp.port={port}" in document["argv"]
    assert JUPYTERLAB.authorization("T") == "token T"
    assert "--ServerApp.sock={socket}" in json.loads(JUPYTERLAB.document("/user/a/", socket=True))["argv"]


def test_without_a_secret_only_a_socket() -> None:
    assert json.loads(CODE_SERVER.document("/user/a/", socket=True))["ready_path"] == "/healthz"
    assert CODE_SERVER.authorization("T") == ""
    with pytest.raises(BadInput, match="cannot listen on a port"):
        CODE_SERVER.document("/user/a/")
    with pytest.raises(BadInput, match="anybody on the node"):
        Application(name="x", title="X", argv=("x", "{port}"), scheme="").check()


def test_custom_commands() -> None:
    assert custom("dash", "Dash", ("dash-app", "--uds", "{socket}")).scheme == ""
    assert custom("lab2", "Lab", ("my-lab", "{port}"), JUPYTERLAB).guard_path == "{base_url}api/status"
    for command in (("x",), ("x", "{port}", "{socket}"), ("x", "{port}", "{token}")):
        with pytest.raises(BadInput):
            custom("x", "X", command)
    with pytest.raises(BadInput):
        custom("Bad Name", "X", ("x", "{port}"))
    with pytest.raises(BadInput):
        Application(name="x", title="X").check()


def test_who_can_be_told_to_end_and_asked_what_it_does() -> None:
    assert JUPYTERLAB.shutdown("/user/ann/x/") == "/user/ann/x/api/shutdown"
    assert [app.name for app in BUILT_IN.values() if app.activity == "jupyter"] == ["jupyterlab", "notebook"]
    assert CODE_SERVER.shutdown("/user/ann/") == ""
    stripped = Application(
        name="x", title="X", socket_argv=("x",), scheme="", strip_prefix=True, shutdown_path="{base_url}quit"
    )
    stripped.check()
    assert stripped.shutdown("/user/ann/") == "/quit"
    for path in ("quit", "http://x/", "/a b", "/x?y", "{base_url}{base_url}", "/{token}"):
        with pytest.raises(BadInput, match="shutdown_path"):
            Application(name="x", title="X", argv=("x",), shutdown_path=path).check()
    with pytest.raises(BadInput, match="Jupyter keeps its base URL"):
        Application(name="x", title="X", argv=("x",), strip_prefix=True, activity="jupyter").check()


def test_job_files() -> None:
    files = job_files("#!/bin/bash\n", b"{}", b"{}")
    assert list(files) == ["job.sh", "launch.py", "launch.json", "secrets.json"]
    assert files["launch.py"] == launcher_source()


def test_words_can_be_added_to_the_command() -> None:
    more = JUPYTERLAB.with_arguments(("--allow-root",))
    assert (more.argv[-1], more.socket_argv[-1]) == ("--allow-root", "--allow-root")
    assert JUPYTERLAB.with_arguments(()) is JUPYTERLAB
    with pytest.raises(BadInput, match="token"):
        JUPYTERLAB.with_arguments(("--token={token}",)).check()


def test_jupyterlab_is_told_where_the_hub_is() -> None:
    document = json.loads(JUPYTERLAB.document("/user/ann/x/", username="ann", server="x"))
    assert "'hubPrefix':'/hub/'" in document["argv"][-1]
    assert "'hubUser':'ann','hubServerName':'x'" in document["argv"][-1]


@pytest.mark.parametrize(
    ("application", "path"),
    [(CODE_SERVER, "/healthz"), (JUPYTERLAB, "/user/ann/api/status"), (MARIMO, "/user/ann/api/status")],
)
def test_it_is_probed_under_the_path_that_it_knows(application: Application, path: str) -> None:
    assert application.probed_path("/user/ann/") == path


def test_a_base_path_has_no_final_slash() -> None:
    document = json.loads(MARIMO.document("/user/ann/"))
    assert "--base-url=/user/ann" in document["argv"]
