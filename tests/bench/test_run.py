"""The benchmarks run: ours alone and much too short to mean anything, so that the scripts cannot rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.needs import missing, need_program

BENCH = Path(__file__).parents[2] / "bench"
SHORT = [
    "--rounds=1",
    "--seconds=1",
    "--warm=0",
    "--bodies=1",
    "--mib=1",
    "--idle=20",
    "--routes=20",
    "--peers=ours",
    "--json",
]


def run(script: str, *words: str, path: str = "") -> dict[str, Any]:
    environment = {**os.environ, **({"PATH": path} if path else {})}
    argv = [sys.executable, str(BENCH / script), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(autouse=True)
def two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        missing("the benchmarks need two cores")


def test_the_proxy_is_measured() -> None:
    found = run("proxy.py", *SHORT, "--only=requests,idle")
    figures = found["figures"]
    assert list(figures) == ["requests", "idle"]
    assert figures["requests"].keys() == {"ours", "ours_checked", "direct"}
    assert figures["requests"]["ours"]["rate"]["median"] > 0
    assert found["conditions"]["versions"]["ours"]
    assert not any(name.endswith(("_chp", "_nginx")) for name in found)


def test_the_tunnel_is_measured() -> None:
    need_program("sshd", "openssh-server")
    found = run("tunnel.py", *SHORT, "--only=transfer")
    assert found["figures"]["tunnel_download"].keys() == {"ours", "ssh", "ssh_gcm"}
    assert found["tunnel_download_vs_ssh"] > 0
    assert found["conditions"]["ciphers"]["ssh_gcm"] == found["conditions"]["ciphers"]["ours"]


def test_what_is_not_installed_is_said_with_its_package(tmp_path: Path) -> None:
    """CHP is left out; wrk's place is taken by a loop of our own, which a note says."""
    if any((Path(place) / "wrk").exists() for place in ("/usr/local/sbin", "/usr/sbin", "/sbin")):
        pytest.skip("wrk stands where daemons do")
    found = run("proxy.py", *SHORT, "--peers=ours,chp", "--only=requests", path=str(tmp_path))
    assert "npm" in found["skipped"][0]
    assert "apt-get install wrk" in found["notes"][0]
    assert found["figures"]["requests"]["ours"]["rate"]["median"] > 0
    assert "requests_vs_chp" not in found


def test_a_section_that_does_not_exist_is_refused() -> None:
    argv = [sys.executable, str(BENCH / "proxy.py"), "--only=speed"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "one of requests, websocket, transfer, idle, routes is expected" in done.stderr
