"""An old backup of the database is restored while somebody's notebook runs: real hub, proxy and SSH, fakesched in three dialects.

The job that no row knows is listed by the command, taken back with its route, and its application was never touched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.parts import wait_until
from tests.e2e.small_site import SCHEDULERS, SECONDS, SmallSite, server_of, small_site
from tests.e2e.test_fakesched import ADA, Program

SETTINGS = {"Watching__orphans_every": 1.0, "Watching__orphans_after": 1.0}


def told(site: SmallSite) -> str:
    """What ``batchhub orphans`` says."""
    argv = [sys.executable, "-m", "batchhub", "orphans", f"--config={site.hub.config}", "--log-level=warning"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def lose_the_row(site: SmallSite, directory: Path) -> tuple[str, str, str]:
    """Start a server, and set the database back to before it: the application's process, the job's number, the run's id."""
    site.hub.start()
    Program(site.hub, ADA)  # the backup knows her
    site.hub.kill_hub()
    database, backup = site.hub.state / "batchhub.sqlite", directory / "backup"
    backup.mkdir()
    for file in site.hub.state.glob("batchhub.sqlite*"):
        shutil.copy(file, backup / file.name)
    site.hub.start(proxy=False)
    ada = Program(site.hub, ADA)
    assert ada.start(cores="1").status_code in {201, 202}
    ada.until("ready")
    pid = site.entered(ada)
    (job,) = site.live()
    assert told(site) == "hpc: none.\n"
    site.hub.kill_hub()
    for file in site.hub.state.glob("batchhub.sqlite*"):
        file.unlink()
    for file in backup.iterdir():
        shutil.copy(file, database.with_name(file.name))
    return pid, job.id, job.name.removeprefix("bh-")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_restored_backup_and_a_running_notebook(scheduler: str, tmp_path: Path) -> None:
    with small_site(scheduler, tmp_path, Watching__orphans="adopt", **SETTINGS) as site:
        pid, number, server_id = lose_the_row(site, tmp_path)
        changes = site.changes()
        said = told(site)
        assert f"hpc: job {number} (bh-{server_id}) of {ADA}: " in said
        site.hub.start(proxy=False)
        ada = Program(site.hub, ADA)
        wait_until(
            lambda: server_of(ada).get("phase") == "ready", SECONDS, f"it is taken back\n{said}{site.hub.logs()}"
        )
        assert str(server_of(ada)["job_id"]).partition(".")[0] == number
        assert site.entered(ada) == pid
        assert [route["server_id"] for route in site.routes().values()] == [server_id]
        assert site.changes() == changes, "nothing was submitted or cancelled"
        assert told(site) == "hpc: none.\n"
        # It is a server like any other: stopped, it is gone.
        ada.stop()
        wait_until(lambda: not site.live(), SECONDS, "its job ends")
        assert ada.until("ended")["outcome"] == "stopped"
        wait_until(lambda: not site.routes(), SECONDS, "its route is withdrawn")


def test_only_proven_jobs_are_cancelled(tmp_path: Path) -> None:
    """A stranger's job of such a name stays, listed; ours ends by the site's policy."""
    with small_site("slurm", tmp_path, Watching__orphans="cancel", **SETTINGS) as site:
        _, number, server_id = lose_the_row(site, tmp_path)
        stranger = site.cluster.insert(name="bh-zzzzzzzzzzzz", user="nosuch-mallory", held="user")
        site.hub.start(proxy=False)
        site.cluster.wait(number, "CANCELLED", timeout=SECONDS)
        wait_until(lambda: not site.routes(), SECONDS, "the route of a run that no row knows is withdrawn")
        job = site.cluster.job(stranger)
        assert job is not None
        assert job.state == "PENDING"
        said = told(site)
        assert f"job {stranger} (bh-zzzzzzzzzzzz) of nosuch-mallory: leave. Nothing in its owner's home" in said
        assert server_id not in said
