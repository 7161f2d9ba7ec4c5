"""The proxy process, put together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uvloop

from batchhub.app.reach import ask_directly, make_tunnels
from batchhub.app.site import Site
from batchhub.app.state import StateDirectory, utc_now
from batchhub.config import traits
from batchhub.core.errors import Unreachable
from batchhub.proxy.server import Proxy
from batchhub.proxy.settings import ProxySettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """What a proxy is made from."""

    settings: ProxySettings
    site: Site
    hub_url: str


def plan_proxy(
    proxy: traits.Proxy, hub: traits.Hub, sessions: traits.Sessions, state: StateDirectory, site: Site
) -> ProxyPlan:
    """Freeze the traits. Raises ConfigError."""
    hub_url = f"http://{hub.ip}:{hub.port}"
    settings = ProxySettings(
        token=state.api_token,
        ticket_keys=(state.key("tickets"),),
        state_file=state.routes,
        default_target=hub_url,
        public_host=proxy.ip,
        public_port=proxy.port,
        certificate=Path(proxy.ssl_cert) if proxy.ssl_cert else None,
        key=Path(proxy.ssl_key) if proxy.ssl_key else None,
        api_host=proxy.api_ip,
        api_port=proxy.api_port,
        trusted_proxies=tuple(proxy.trusted_proxies),
        secure_cookies=bool(proxy.ssl_cert) or proxy.https_in_front,
        ticket_life=timedelta(days=sessions.absolute_days),
    )
    settings.check()
    return ProxyPlan(settings, site, hub_url)


class HubTokens:
    """Asks the hub whose an API token is."""

    def __init__(self, hub_url: str) -> None:
        self._url = f"{hub_url}/hub/api/user"

    async def __call__(self, token: str, path: str) -> str | None:
        """The user's name, or ``None``. Raises Unreachable. ``path`` is for scopes, which tokens do not have yet."""
        del path
        return await asyncio.to_thread(self._ask, token)

    def _ask(self, token: str) -> str | None:
        request = urllib.request.Request(self._url, headers={"Authorization": f"token {token}"})  # noqa: S310 - our own hub
        try:
            with ask_directly(request, 5) as answer:
                model = json.loads(answer.read(65536))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in {401, 403}:
                return None
            raise Unreachable(f"The hub answered {error.code} when it was asked about a token.") from error
        except (OSError, ValueError) as error:
            raise Unreachable("The hub does not answer, so the token cannot be checked.") from error
        name = model.get("name") if isinstance(model, dict) else None
        return name if isinstance(name, str) else None


def run_proxy(plan: ProxyPlan) -> None:
    """Serve until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(plan))


async def _serve(plan: ProxyPlan) -> None:
    tunnels = make_tunnels(plan.site.clusters, utc_now)
    proxy = Proxy(plan.settings, tunnels=tunnels, token_checker=HubTokens(plan.hub_url), clock=utc_now)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await proxy.start()
    try:
        await stop.wait()
    finally:
        await proxy.close()
        for tunnel in tunnels.values():
            with contextlib.suppress(Exception):
                await tunnel.close()
