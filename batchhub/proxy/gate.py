"""Where the access check meets a request: what it says about itself, which host it came to, who may pass.

A proxy that was told the hub's origin gives every server a host of its own (:mod:`batchhub.core.hosts`). Then a server is served under its
host alone, and under its host nothing else is: no page of a notebook ever has the origin of the hub or of another server.
"""

from __future__ import annotations

from urllib.parse import quote

from batchhub.core.hosts import Origin, host_name
from batchhub.proxy.access import OPEN, Decision, Facts, Redirect, Refuse, Rule, check, navigation
from batchhub.proxy.context import Context
from batchhub.proxy.headers import ACCESS_COOKIE, Peer, cookies, forwarded
from batchhub.proxy.wire import RequestHead

_FACTS = frozenset({b"authorization", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"accept"})
_AS_IT_IS = "".join(chr(code) for code in range(0x21, 0x7F))


def decide(context: Context, facts: Facts, rule: Rule) -> Decision:
    """Whether a request may pass to the route of this rule."""
    settings = context.settings
    if settings.origin is not None or rule.host:
        elsewhere = placed(facts, rule, settings.origin, settings.hub_prefix)
        if elsewhere is not None:
            return elsewhere
    if not rule.owner:
        return OPEN
    return check(
        facts,
        rule,
        context.clock(),
        context.tickets,
        context.book.revoked,
        secure=settings.secure_cookies,
        hub=settings.hub_address,
    )


def facts_of(head: RequestHead, peer: Peer, path: str) -> Facts:
    """What the check needs to know."""
    latin = {name: value.decode("latin-1") for name, _, value in head.headers if name in _FACTS}
    return Facts(
        method=head.method.decode("ascii"),
        target=path + head.query.decode("latin-1"),
        host=host_of(head, peer),
        tickets=cookies(head.all(b"cookie"), ACCESS_COOKIE),
        authorization=latin.get(b"authorization", ""),
        origin=latin.get(b"origin"),
        fetch_site=latin.get(b"sec-fetch-site", ""),
        fetch_mode=latin.get(b"sec-fetch-mode", ""),
        accept=latin.get(b"accept", ""),
        upgrade=bool(head.upgrade),
    )


def host_of(head: RequestHead, peer: Peer) -> str:
    """The Host header that the browser sent, as far as is known."""
    return (forwarded(head, peer).host if peer.trusted else head.host).decode("latin-1")


def placed(facts: Facts, rule: Rule, origin: Origin | None, hub: str) -> Decision | None:
    """Where the request should have gone, or why it goes nowhere; ``None`` if it came to the right host.

    ``origin`` is the hub's, ``None`` for a proxy that knows of no hosts; ``hub`` is the hub's path.
    """
    if rule.owner and (origin is None) == bool(rule.host):
        # One of the two was started with another configuration. To pass now would show the hub and a notebook under one origin.
        return Refuse(
            503, "The hub and its proxy do not agree on where servers live. Restart the one that was started earlier."
        )
    if origin is None:
        return None
    name = host_name(facts.host)
    if rule.host:
        if name == rule.host:
            return None
        if navigation(facts):
            return Redirect(origin.at(rule.host) + _printable(facts.target))
        return Refuse(403, "This server is served under a host of its own.")
    return _not_a_server(facts, origin, hub) if origin.covers(name) else None


def _not_a_server(facts: Facts, origin: Origin, hub: str) -> Decision:
    """At a server's host, for something that is not this server."""
    base = hub.removesuffix("hub/")
    servers = facts.target.startswith(f"{base}user/")
    if navigation(facts) and (servers or facts.target.startswith(hub) or facts.target == "/"):
        return Redirect(origin.text + _printable(facts.target))
    if servers:
        return Refuse(424, "The server at this address is not running.")
    return Refuse(404, "Only a server is served under this host.")


def _printable(target: str) -> str:
    return quote(target, safe=_AS_IT_IS, encoding="latin-1")
