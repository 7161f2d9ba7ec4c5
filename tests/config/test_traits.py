"""Every setting and its default, as a table: a change of one is a change here, seen by whoever reads it."""

import os

import pytest
from traitlets import TraitError

from batchhub.config.traits import CONCERNS, BatchHub, Sessions, Watching

TABLE = """
BatchHub.additions = []
BatchHub.applications = {}
BatchHub.auth_state_hook = None
BatchHub.authenticator_class = 'pam'
BatchHub.clusters = {}
BatchHub.db_url = ''
BatchHub.hook_timeout = 30.0
BatchHub.keep_audit_days = 365.0
BatchHub.keep_directories = 10
BatchHub.keep_directory_days = 30.0
BatchHub.keep_ended_days = 365.0
BatchHub.post_stop_hook = None
BatchHub.pre_spawn_hook = None
BatchHub.profiles = []
BatchHub.same_people = False
BatchHub.site_file = ''
BatchHub.subdomain_host = ''
BatchHub.template_dirs = []
Hub.ip = '127.0.0.1'
Hub.port = 8081
Hub.url = ''
Proxy.api_ip = '127.0.0.1'
Proxy.api_port = 8001
Proxy.drain_hours = 24.0
Proxy.https_in_front = False
Proxy.identity_headers = []
Proxy.ip = '0.0.0.0'
Proxy.metrics_ip = '127.0.0.1'
Proxy.metrics_port = 0
Proxy.port = 8000
Proxy.redirect_port = 0
Proxy.reverse_host = ''
Proxy.reverse_ip = '0.0.0.0'
Proxy.reverse_port = 0
Proxy.should_start = True
Proxy.ssl_cert = ''
Proxy.ssl_key = ''
Proxy.trusted_proxies = []
Proxy.workers = 1
Pages.announcement = ''
Pages.auto_login = False
Pages.help_url = ''
Pages.metrics_public = False
Pages.sign_in_words = ''
Pages.support = ''
Pages.title = 'BatchHub'
Sessions.absolute_days = 14.0
Sessions.idle_hours = 24.0
Sessions.ticket_hours = 12.0
Watching.absent_after = 180.0
Watching.accounting_patience = 60.0
Watching.ceiling = 60.0
Watching.confirmations = 2
Watching.fast = 2.0
Watching.orphans = 'report'
Watching.orphans_after = 180.0
Watching.orphans_every = 600.0
Watching.slow = 20.0
Starting.cancel_again = 15.0
Starting.first_word = 10.0
Starting.requeue_grace = 60.0
Starting.start_timeout = 300.0
Starting.stop_grace = 10.0
Limits.concurrent_starts = 100
Limits.servers_each = 10
Limits.starts_each = 20
Limits.starts_minutes = 10.0
Culling.cull_every = 60.0
Culling.idle_timeout = 0.0
Culling.max_lifetime = 0.0
Walltime.save_before = 120.0
Walltime.warn_before = 900.0
"""


def test_the_defaults_are_pinned() -> None:
    found = [
        f"{cls.__name__}.{name} = {getattr(cls(), name)!r}"
        for cls in CONCERNS
        for name in sorted(cls.class_own_traits(config=True))
        if name != "state_dir"
    ]
    assert "\n".join(found) == TABLE.strip()


def test_every_setting_says_what_it_is() -> None:
    for cls in CONCERNS:
        for name, trait in cls.class_own_traits(config=True).items():
            assert trait.help.rstrip().endswith("."), f"{cls.__name__}.{name}"


def test_the_state_directory_is_roots_or_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert BatchHub().state_dir == "/var/lib/batchhub"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert BatchHub().state_dir == "/x/batchhub"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/alice")
    assert BatchHub().state_dir == "/home/alice/.local/state/batchhub"


@pytest.mark.parametrize("name", ["fast", "slow", "ceiling"])
def test_a_scheduler_is_not_asked_too_often(name: str) -> None:
    with pytest.raises(TraitError, match=r"at least 0\.2"):
        Watching(**{name: 0.1})
    assert Watching(fast=0.2, slow=0.2, ceiling=0.2).ceiling == 0.2


@pytest.mark.parametrize("odd", [{"fast": 30.0}, {"slow": 90.0}, {"ceiling": 10.0}, {"fast": 5.0, "slow": 4.0}])
def test_pauses_that_contradict_each_other(odd: dict[str, float]) -> None:
    with pytest.raises(TraitError, match="each be at least the one before it"):
        Watching(**odd)


def test_what_is_done_with_orphans_is_one_of_three_words() -> None:
    with pytest.raises(TraitError, match="adopt"):
        Watching(orphans="adobt")
    for name, value in (("orphans_every", 0.5), ("orphans_every", 90_000.0), ("orphans_after", -1.0)):
        with pytest.raises(TraitError, match=rf"Watching\.{name}"):
            Watching(**{name: value})
    Watching(orphans="cancel", orphans_every=1.0, orphans_after=0.0)


@pytest.mark.parametrize("name", ["idle_hours", "absolute_days", "ticket_hours"])
def test_a_sign_in_lasts_for_some_time_but_not_for_ever(name: str) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf"), 1e6):
        with pytest.raises(TraitError, match=rf"Sessions\.{name}: .* 0\.01 to 100000"):
            Sessions(**{name: value})
    assert getattr(Sessions(**{name: 0.5}), name) == 0.5
