"""The proxy process, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from batchhub.app.dialling import KIND, Dialling, plan_dialling
from batchhub.app.reach import make_tunnels
from batchhub.app.site import Site, hub_address, over_https
from batchhub.app.ssh_ca import site_authority
from batchhub.app.state import StateDirectory, no_core_dump, utc_now
from batchhub.config import traits
from batchhub.core.errors import ConfigError
from batchhub.proxy.plane import Parts
from batchhub.proxy.run import run
from batchhub.proxy.settings import Metrics, ProxySettings, Redirect
from batchhub.proxy.tls import ServerTLS
from batchhub.proxy.tokens import HubTokens
from batchhub.transport.certificates import Authority
from batchhub.tunnel.reverse import ReverseTunnel


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """What a proxy is made from."""

    settings: ProxySettings
    site: Site
    hub_url: str
    dialling: Dialling | None = None
    authority: Authority | None = None


def plan_proxy(
    proxy: traits.Proxy, hub: traits.Hub, sessions: traits.Sessions, state: StateDirectory, site: Site
) -> ProxyPlan:
    """Freeze the traits. Raises ConfigError."""
    hub_url = hub_address(hub)
    dialling = plan_dialling(proxy, state, site)
    settings = ProxySettings(
        token=state.api_token,
        ticket_keys=(state.key("tickets"),),
        state_file=state.routes,
        default_target=hub_url,
        public_host=proxy.ip,
        public_port=proxy.port,
        tls=_public_tls(proxy),
        api_host=proxy.api_ip,
        api_port=proxy.api_port,
        trusted_proxies=tuple(proxy.trusted_proxies),
        identity_headers=tuple(proxy.identity_headers),
        secure_cookies=over_https(proxy, site.origin),
        origin=site.origin,
        ticket_life=timedelta(days=sessions.absolute_days),
        redirect=Redirect(proxy.redirect_port, proxy.port) if proxy.redirect_port else None,
        dial_in=dialling.listen if dialling is not None else None,
        metrics=Metrics(proxy.metrics_ip, proxy.metrics_port) if proxy.metrics_port else None,
        workers=proxy.workers,
        drain=timedelta(hours=proxy.drain_hours),
    )
    settings.check()
    return ProxyPlan(settings, site, hub_url, dialling, site_authority(site, state, utc_now))


def _public_tls(proxy: traits.Proxy) -> ServerTLS | None:
    if bool(proxy.ssl_cert) != bool(proxy.ssl_key):
        raise ConfigError("Proxy.ssl_cert and Proxy.ssl_key: TLS needs both a certificate and its key.")
    return ServerTLS(Path(proxy.ssl_cert), Path(proxy.ssl_key)) if proxy.ssl_cert else None


def run_proxy(plan: ProxyPlan) -> None:
    """Do what this process of the proxy has to, until it is told to end. Raises ConfigError."""
    no_core_dump()
    run(plan.settings, lambda: _parts(plan), utc_now)


@contextlib.asynccontextmanager
async def _parts(plan: ProxyPlan) -> AsyncIterator[Parts]:
    """What carries traffic, for one worker."""
    gate = plan.dialling.gate(utc_now) if plan.dialling is not None else None
    ready = {KIND: ReverseTunnel(gate)} if gate is not None else {}
    patience = plan.settings.limits.connect_time
    tunnels = make_tunnels(plan.site.clusters, utc_now, ready, patience=patience, authority=plan.authority)
    try:
        yield Parts(tunnels, HubTokens(plan.hub_url), gate)
    finally:
        if gate is not None:
            await gate.close()
        for tunnel in tunnels.values():
            with contextlib.suppress(Exception):
                await tunnel.close()
