"""A real hub kills itself with SIGKILL at chosen effects of every flow; the next one finds one job or none, the right route, the right row.

The points stand in a row: each process recovers from the death of the one before it, and dies in its turn. All points, in memory, are in
``tests/control/test_crashes.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.parts import wait_until
from tests.e2e.small_site import SECONDS, SmallSite, server_of, small_site
from tests.e2e.test_fakesched import ADA, Program


class Mortal:
    """A site whose hub dies as planned, and its person, who goes on wishing what she wished."""

    def __init__(self, site: SmallSite) -> None:
        self.site = site
        self.deaths = 0
        site.hub.hub_module = "tests.e2e.dying_hub"

    def plan(self, *points: str) -> None:
        """Where the hub that runs, and the next ones, die. The one that runs is ended for it, by SIGKILL."""
        self.points = list(points)
        with contextlib.suppress(KeyError):
            self.site.hub.kill_hub()
        self.live()

    def live(self) -> None:
        if not self.points:
            self.site.hub.start()
            return
        # What it is to die at may come before its first answer, so nobody waits for that.
        self.site.hub.config.with_name("die-at").write_text(self.points[0], encoding="utf-8")
        self.site.hub.spawn("hub")

    def until(self, true: Callable[[], bool], wish: Callable[[], None], what: str) -> None:
        """Until it is so and every planned death was died."""

        def look() -> bool:
            if self.site.hub.forget_dead_hub():
                assert self.points, f"it died where it should not\n{self.site.hub.logs()}"
                self.points.pop(0)
                self.deaths += 1
                self.live()
            assert len(self.site.live()) <= 1
            with contextlib.suppress(requests.RequestException):
                wish()
            return true() and not self.points

        try:
            wait_until(look, 3 * SECONDS, what)
        except AssertionError as error:
            error.add_note(f"still to die: {self.points}\n{self.site.hub.logs()}")
            raise


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    # A job that is found by its name only must not be submitted again while a busy machine is slow to find it.
    options = {"submit_deadline": 20.0}
    with small_site("slurm", tmp_path, Watching__absent_after=30.0, options=options) as site:
        yield Mortal(site)


def nothing() -> None:
    """Only time passes."""


def test_every_flow_and_one_job(mortal: Mortal) -> None:
    site = mortal.site
    mortal.plan()
    ada = Program(site.hub, ADA)

    def start() -> None:
        if not server_of(ada):
            ada.start(cores="1")

    def stop() -> None:
        if server_of(ada).get("phase") != "ended":
            # The answer may die with the hub.
            ada.session.delete(f"{site.hub.url}/hub/api/users/{ADA}/server", timeout=10)

    def ready() -> bool:
        led = [f"bh-{route['server_id']}" for route in site.routes().values()]
        return server_of(ada).get("phase") == "ready" and led == [job.name for job in site.live()]

    def ended() -> bool:
        return server_of(ada).get("phase") == "ended" and not site.live() and not site.routes()

    # Start: the submit command has answered and nobody heard it, the application answers, the route is published.
    mortal.plan("submit 1 after", "update:answered 1 after", "publish 1 after")
    mortal.until(ready, start, "ready")
    assert site.changes() == (1, 0)
    (job,) = site.live()
    pid = site.entered(ada)

    # Put back in the queue: with that saved, with the route withdrawn; and once more, with new secrets half written.
    for restarts, points in enumerate((("update:phase 1 after", "withdraw 1 after"), ("put 1 after",)), start=1):
        mortal.plan(*points)
        site.cluster.hold(job.id)
        site.cluster.requeue(job.id)
        mortal.until(lambda: server_of(ada).get("phase") == "queued" and not site.routes(), nothing, "queued again")
        site.cluster.release(job.id)
        mortal.until(ready, nothing, "ready again")
        assert site.entered(ada) != pid
        pid = site.entered(ada)
        assert [(again.id, again.restarts) for again in site.live()] == [(job.id, restarts)]
        assert site.changes() == (1, 0)

    # Stop: with the wish saved, while the cancel is on its way, and when the end is.
    mortal.plan("update:stop 1 after", "withdraw 1 after", "cancel 1 during")
    mortal.until(ended, stop, "ended")
    assert server_of(ada)["outcome"] == "stopped"
    assert site.changes()[0] == 1
    assert mortal.deaths == 9
    assert [job.state for job in site.cluster.jobs()] == ["CANCELLED"]


def test_the_proxy_is_killed_with_its_journal_and_without(mortal: Mortal) -> None:
    """The route comes back from the journal by itself; with the journal lost the hub publishes it again. The tunnel opens on demand."""
    site = mortal.site
    mortal.plan()
    ada = Program(site.hub, ADA)
    assert ada.start(cores="1").status_code in {201, 202}
    ada.until("ready")
    pid, routes, journal = site.entered(ada), site.routes(), site.hub.state / "routes.json"
    # It is synced to disk a moment after the route is in force.
    wait_until(
        lambda: journal.exists() and f"/user/{ADA}" in journal.read_text(encoding="utf-8"),
        SECONDS,
        "the journal is written",
    )
    for lost in (False, True):
        site.hub.kill("proxy")
        if lost:
            journal.unlink()
        site.hub.start()
        if not lost:
            assert site.routes().keys() == routes.keys(), "at once, from the journal"
        wait_until(lambda: site.routes().keys() == routes.keys(), 2 * SECONDS, f"published again\n{site.hub.logs()}")
        assert site.entered(ada) == pid
    assert site.changes() == (1, 0)
