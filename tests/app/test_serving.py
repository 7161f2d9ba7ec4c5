"""Hub and proxy as processes: who finds whom, who outlives whom, and what is said when something is in the way."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest


def answers(url: str) -> bool:
    """Whether something of ours answers there now."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def wait_for(condition, what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def proxy_pid(shell) -> int:
    return int((shell.home / "state" / "proxy.pid").read_text())


def test_the_proxy_outlives_the_hub_and_is_found_again(shell, ports) -> None:
    shell.config(**ports)
    public = f"http://127.0.0.1:{ports['Proxy__port']}/hub/login"
    first = shell.start("--debug", "--Pages.title", "Over there")
    wait_for(lambda: answers(public) or first.poll() is not None, "the hub answers through the proxy")
    assert first.poll() is None, shell.said(first)
    pid = proxy_pid(shell)
    assert b"Over there" in Path(f"/proc/{pid}/cmdline").read_bytes(), "flags written in two words reach the proxy"
    for process in (first.pid, pid):
        (line,) = (row for row in Path(f"/proc/{process}/limits").read_text().splitlines() if "core file" in row)
        assert line.split()[4] == "0", "a dump would hold keys and passwords"

    # A second hub beside it: a sentence, and the proxy and the first hub go on.
    second = shell("--log-level=warning")
    assert second.returncode != 0
    assert "Another hub works on the database" in second.stderr
    assert answers(public)

    # kill -9: the proxy goes on and says so.
    first.kill()
    first.wait(10)
    assert alive(pid)
    with pytest.raises(urllib.error.HTTPError) as away:
        urllib.request.urlopen(public, timeout=5)
    assert away.value.code == 503
    away.value.close()

    # Started again it is the same proxy; SIGTERM ends the hub alone.
    third = shell.start()
    wait_for(lambda: answers(public), "the next hub answers through the same proxy")
    assert proxy_pid(shell) == pid
    assert "the proxy runs already" in shell.said(third)
    assert (
        f"with {shell.home}/batchhub_config.py; state in {shell.home}/state; clusters here; sign-in by dictionary"
        in shell.said(third)
    )

    # A proxy that dies is started again by the hub, with its routes.
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: proxy_pid(shell) != pid and answers(public), "the hub starts another proxy")
    pid = proxy_pid(shell)
    assert "the proxy has died" in shell.said(third)
    third.send_signal(signal.SIGTERM)
    assert third.wait(15) == 0
    assert alive(pid)

    # A reload makes it the program and the configuration that are there now, in the same process.
    log = shell.home / "state" / "proxy.log"
    assert f"The proxy (pid {pid}) was told to reload" in shell("reload").stdout
    wait_for(lambda: "of before the reload has ended" in log.read_text(), "the former worker ends")
    assert alive(pid)
    with pytest.raises(urllib.error.HTTPError) as still_away:
        urllib.request.urlopen(public, timeout=5)
    still_away.value.close()

    assert f"The proxy (pid {pid}) was told to end." in shell("stop").stdout
    wait_for(lambda: not alive(pid), "the proxy ends")
    assert shell("stop").stdout == "No detached proxy is running.\n"
    for process in (first, third):
        assert "Traceback" not in shell.said(process)
    for name in ("batchhub.sqlite", "cookies.key", "tickets.key", "servers.key", "proxy_api.key", "proxy.log"):
        assert (shell.home / "state" / name).stat().st_mode & 0o077 == 0, name


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server of somebody else's."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        """Silence."""


def test_somebody_elses_service_on_the_control_port_is_said_so(inside) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    with closing(server.socket):
        thread = threading.Thread(target=server.serve_forever, name="stranger")
        thread.start()
        inside.config(Proxy__api_port=server.server_port)
        done = inside()
        server.shutdown()
        thread.join()
    assert "Something that is not our proxy answers" in done.stderr
    assert f"127.0.0.1:{server.server_port} (HTTP 404); set c.Proxy.api_port" in done.stderr
    assert done.returncode == 2


def test_a_taken_public_port_is_said_with_the_proxys_own_words(shell, ports) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    with closing(server.socket):
        shell.config(**{**ports, "Proxy__port": server.server_port})
        done = shell()
    assert "The proxy ended at once" in done.stderr
    assert "in use" in done.stderr
    assert done.returncode == 1
    assert not (shell.home / "state" / "proxy.pid").exists()


@pytest.mark.parametrize("command", [(), ("hub",), ("proxy",), ("stop",)])
def test_a_state_directory_that_others_can_enter_is_refused(inside, command: tuple[str, ...]) -> None:
    inside.config()
    (inside.home / "state").mkdir()
    (inside.home / "state").chmod(0o750)
    done = inside(*command)
    assert "can be entered by others; it holds keys: chmod 700" in done.stderr
    assert done.returncode == 2


def test_a_state_directory_that_cannot_be_made(inside) -> None:
    inside.config("c.BatchHub.state_dir = 'batchhub_config.py/state'")
    done = inside("proxy")
    assert "cannot be made or read: Not a directory." in done.stderr
    assert done.returncode == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_of_somebody_else(inside) -> None:
    inside.config()
    (inside.home / "state").mkdir(mode=0o700)
    os.chown(inside.home / "state", 65534, 65534)
    assert "belongs to uid 65534, not to uid 0 that runs this" in inside("proxy").stderr


def test_stop_leaves_a_recycled_number_alone(inside) -> None:
    inside.config()
    (inside.home / "state").mkdir(mode=0o700)
    for content in (str(os.getpid()), "no number", "999999999"):
        (inside.home / "state" / "proxy.pid").write_text(content)
        reload = inside("reload")
        assert (reload.returncode, reload.stdout) == (1, "")
        assert "No detached proxy is running, so there is nothing to reload." in reload.stderr
        assert inside("stop").stdout == "No detached proxy is running.\n"
    # The proxy of another directory is not ours to end either.
    words = ("-m", "batchhub", "proxy", "--state-dir=/elsewhere")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words]) as other:
        (inside.home / "state" / "proxy.pid").write_text(str(other.pid))
        assert inside("stop").stdout == "No detached proxy is running.\n"
        assert other.poll() is None
        other.kill()


def test_a_wrong_schema_stops_the_hub_with_a_sentence(shell, ports) -> None:
    import sqlite3

    shell.config(**ports)
    (shell.home / "state").mkdir(mode=0o700)
    file = shell.home / "state" / "batchhub.sqlite"
    shell("db", "upgrade")
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    done = shell("hub")
    assert "is at revision 9999, which this version of BatchHub does not know" in done.stderr
    assert done.returncode == 2
