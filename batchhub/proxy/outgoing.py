"""A request's head as it goes to an application: put together from the request, the route and the kind of proxy this is."""

from __future__ import annotations

from batchhub.core.routes import stripped
from batchhub.proxy.book import Route
from batchhub.proxy.context import Context
from batchhub.proxy.forward import request_head
from batchhub.proxy.habit import Habit
from batchhub.proxy.headers import ACCESS_COOKIE, HUB_COOKIES, Peer, asker, forwarded, request_lines, without_tokens
from batchhub.proxy.identity import said, seal_line, taken
from batchhub.proxy.wire import RequestHead


def outgoing(head: RequestHead, path: str, route: Route, peer: Peer, habit: Habit, *, context: Context) -> bytes:
    """The whole head. ``path`` is canonical; ``peer`` and ``habit`` are the client connection's."""
    settings = context.settings
    if settings.standalone:
        return request_head(head, path, route=route.path, target=route.target, peer=peer, options=settings.forwarding)
    owned, query = bool(route.rule.owner), head.query
    if owned and query:
        query = without_tokens(query)
    if route.strip:
        path = stripped(path, route.strip)
    target = route.target.prefix.encode() + path.encode("ascii") + query
    sealed = b""
    if not owned and (route.path == "/" or path.startswith(settings.hub_prefix)):
        told = said(head, settings.identity_headers) if peer.trusted else {}
        sealed = seal_line(asker(head, peer, context.trusted), told, settings.ticket_keys[0], context.clock())
    below = habit.below(head, route)
    if below:
        return b"%b %b HTTP/1.1\r\n%b%b" % (head.method, target, sealed, below)
    secrets = ACCESS_COOKIE if route.path == "/" and not owned else HUB_COOKIES
    authorization = route.authorization if owned else route.authorization or None
    host = head.host or route.target.authority.encode()
    lines = request_lines(
        head,
        target,
        forwarded(head, peer),
        host,
        secrets=secrets,
        authorization=authorization,
        owned=owned,
        taken=taken(settings.identity_headers),
    )
    first, end, below = lines.partition(b"\r\n")
    habit.keep(head, route, below)
    return b"%b%b%b%b" % (first, end, sealed, below) if sealed else lines
