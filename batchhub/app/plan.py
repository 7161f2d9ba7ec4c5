"""What a hub is made from: the traits, frozen and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from batchhub.app.customising import check_kept
from batchhub.app.dialling import Dialling, plan_dialling
from batchhub.app.doors import SiteDoors
from batchhub.app.hooks import NO_HOOKS, SiteHooks, plan_hooks
from batchhub.app.orphans import orphan_settings
from batchhub.app.site import Site, hub_address, over_https, with_limits
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.base import Authenticator, LoginKind, Place
from batchhub.auth.rules import never_known, problems
from batchhub.auth.sessions import SessionSettings
from batchhub.auth.ways import check_ways
from batchhub.config import traits
from batchhub.control.culling import CullSettings
from batchhub.control.orphans import OrphanSettings
from batchhub.control.pace import Pace
from batchhub.control.poller import PollerSettings
from batchhub.control.reconciler import ReconcilerSettings
from batchhub.control.retention import RetentionSettings
from batchhub.control.service import ServiceSettings
from batchhub.control.stopping import StopSettings
from batchhub.control.walltime import DEFAULT_NOTICES, Notices
from batchhub.core.errors import ConfigError
from batchhub.core.lifecycle import Limits
from batchhub.core.quota import Quota
from batchhub.proxy.headers import TrustedProxies
from batchhub.web.ports import WebSettings


@dataclass(frozen=True, slots=True)
class HubPlan:
    """What a hub is made from; all of it checked."""

    site: Site
    state: StateDirectory
    authenticators: Mapping[str, Authenticator]
    database: str
    listen: tuple[str, int]
    proxy_api: str
    poller: PollerSettings
    reconciler: ReconcilerSettings
    service: ServiceSettings
    sessions: SessionSettings
    web: WebSettings
    culling: CullSettings = field(default_factory=CullSettings)
    orphans: OrphanSettings = field(default_factory=OrphanSettings)
    dialling: Dialling | None = None
    notices: Notices = DEFAULT_NOTICES
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    address: str = ""
    """Where the proxy finds this hub."""
    hooks: SiteHooks = NO_HOOKS
    keep_ended: timedelta = timedelta(days=365)
    """How long runs that ended are remembered, with their words and log ends; zero: without end."""
    keep_audit: timedelta = timedelta(days=365)
    """How long the audit trail goes back; zero: without end."""


def place_of(proxy: traits.Proxy, key: bytes, site: Site) -> Place:
    """What authenticators are told. Raises ConfigError."""
    TrustedProxies(proxy.trusted_proxies)
    return Place(
        address=proxy.ip,
        key=key,
        clock=utc_now,
        front_ends=tuple(proxy.trusted_proxies),
        identity_headers=frozenset(name.lower() for name in proxy.identity_headers),
        doors=SiteDoors(site),
        secure=over_https(proxy, None),
    )


def check_pass_through(site: Site, authenticators: Mapping[str, Authenticator]) -> None:
    """A cluster that is reached with people's passwords or tickets needs a way to sign in that has them. Raises ConfigError."""
    kinds = {LoginKind.PASSWORD, LoginKind.NEGOTIATE}
    bringing = [name for name, one in authenticators.items() if one.pass_through and one.kind in kinds]
    for cluster in site.clusters:
        if cluster.ssh is not None and cluster.ssh.sign_in == "session" and not bringing:
            raise ConfigError(
                f"cluster {cluster.name!r}: sign_in = 'session' uses the password or the tickets that people sign in to the hub with, and no way to sign in that is offered "
                "has the cluster's: take 'ssh', 'pam', 'ldap' or 'kerberos', or set pass_through where the password is the same."
            )


def without_effect(site: Site, authenticators: Mapping[str, Authenticator]) -> Iterator[str]:
    """What the configuration says of people in vain, as sentences for whoever starts the hub."""
    for one in authenticators.values():
        yield from problems(one)
    for cluster in site.clusters:
        for name in never_known(cluster.accounts, authenticators.values()):
            yield f"cluster {cluster.name!r}: accounts names {name!r}, whom no way to sign in knows by this name: the entry has no effect."


def plan_hub(
    trait: Callable[[type[Any]], Any], site: Site, state: StateDirectory, authenticators: Mapping[str, Authenticator]
) -> HubPlan:
    """Freeze the traits. ``trait`` gives a concern's instance. Raises ConfigError."""
    check_ways(authenticators, same_people=trait(traits.BatchHub).same_people)
    place = place_of(trait(traits.Proxy), state.key("tickets"), site)
    for authenticator in authenticators.values():
        authenticator.settle(place)
    check_kept(site, authenticators.values())
    check_pass_through(site, authenticators)
    hub, proxy, pages = trait(traits.Hub), trait(traits.Proxy), trait(traits.Pages)
    sessions, watching, starting = trait(traits.Sessions), trait(traits.Watching), trait(traits.Starting)
    limits, culling = trait(traits.Limits), trait(traits.Culling)
    whole, walltime = trait(traits.BatchHub), trait(traits.Walltime)
    database = whole.db_url or state.database
    secure = over_https(proxy, site.origin)
    absolute = timedelta(days=sessions.absolute_days)
    return HubPlan(
        site=with_limits(site, culling),
        state=state,
        authenticators=authenticators,
        database=database,
        listen=(hub.ip, hub.port),
        proxy_api=f"http://{proxy.api_ip}:{proxy.api_port}",
        poller=PollerSettings(
            pace=Pace(fast=watching.fast, slow=watching.slow, ceiling=watching.ceiling),
            confirmations=watching.confirmations,
            accounting_patience=watching.accounting_patience,
            absent_after=watching.absent_after,
        ),
        reconciler=ReconcilerSettings(
            limits=Limits(
                start_timeout=timedelta(seconds=starting.start_timeout),
                requeue_grace=timedelta(seconds=starting.requeue_grace),
            ),
            stop=StopSettings(grace=starting.stop_grace, again=starting.cancel_again),
        ),
        service=ServiceSettings(
            first_word=starting.first_word,
            quota=Quota(
                servers_each=limits.servers_each,
                concurrent_starts=limits.concurrent_starts,
                starts_each=limits.starts_each,
                starts_window=timedelta(minutes=limits.starts_minutes),
            ),
        ),
        culling=CullSettings(every=culling.cull_every),
        orphans=orphan_settings(watching),
        dialling=plan_dialling(proxy, state, site),
        address=hub_address(hub),
        hooks=plan_hooks(whole),
        notices=Notices(timedelta(seconds=walltime.warn_before), timedelta(seconds=walltime.save_before)),
        retention=RetentionSettings(newest=whole.keep_directories, age=timedelta(days=whole.keep_directory_days)),
        keep_ended=timedelta(days=whole.keep_ended_days),
        keep_audit=timedelta(days=whole.keep_audit_days),
        sessions=SessionSettings(idle=timedelta(hours=sessions.idle_hours), absolute=absolute),
        web=WebSettings(
            title=pages.title,
            announcement=pages.announcement,
            docs=pages.help_url,
            support=pages.support,
            sign_in_words=pages.sign_in_words,
            auto_login=pages.auto_login,
            secure_cookies="always" if secure else "auto",
            ticket_life=timedelta(hours=sessions.ticket_hours),
            metrics="all" if pages.metrics_public else "admin",
            origin=site.origin,
        ),
    )
