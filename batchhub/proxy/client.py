"""The hub's end of the control interface."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from batchhub.core.errors import BadInput, TunnelError, Unreachable
from batchhub.core.ports import Answer, RouteTarget, Use
from batchhub.proxy.book import read_stamp, stamp

DEADLINE = 10.0  # seconds for one call, its wait for a free place included
CONCURRENCY = 10
AT_ONCE = 2000  # ended sessions in one request
PROBES = 64  # an application that does not answer holds its probe for seconds; nothing else waits behind it


def _no_host(_owner: str, _server_name: str) -> str:
    return ""


class ProxyClient:
    """Implements :class:`batchhub.core.ports.Routes`. ``url`` is the control interface's, without a path.

    Paths go in with or without a final ``/`` and come out with one, as ``RouteTarget.path`` and JupyterHub's routespecs have it.
    """

    def __init__(self, url: str, token: str, host_of: Callable[[str, str], str] = _no_host) -> None:
        """``host_of`` gives the host that the route of an owner's server is to be used under, empty if any."""
        self._host_of = host_of
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"token {token}"}
        self._http: AsyncHTTPClient | None = None
        self._probes: AsyncHTTPClient | None = None

    async def publish(self, target: RouteTarget) -> None:
        """See Routes."""
        await self._call("POST", _route(target.path), route_fields(target), {201})

    async def lead(self, hub_url: str, *, led: bool) -> None:
        """What no route takes goes to the hub at this address. ``led``: one of several, which says so anew whenever another takes the lead.

        Raises Unreachable.
        """
        mark = {"led": True} if led else {}
        await self._call("POST", "/api/routes/", {"target": hub_url, "hub": True, **mark}, {201})

    async def withdraw(self, path: str) -> None:
        """See Routes."""
        await self._call("DELETE", _route(path), None, {204, 404})

    async def published(self) -> Mapping[str, str]:
        """See Routes."""
        return MappingProxyType({path: self._server_id(data) for path, data in (await self._routes()).items()})

    def _server_id(self, data: Mapping[str, Any]) -> str:
        """Of a route under another host than it should be under, as servers were given or lost hosts of their own, what no server's id is."""
        server_id = str(data.get("server_id", ""))
        wanted = self._host_of(str(data.get("owner", "")), str(data.get("server_name", "")))
        return server_id if not server_id or data.get("host", "") == wanted else f"{server_id} under another host"

    async def probe(self, target: RouteTarget, path: str) -> int:
        """See Routes."""
        fields = {**route_fields(target), "probe": path}
        answer = await self._call("POST", "/api/probe", fields, {200, 503}, self._patient())
        content = _reached(answer)
        status = content.get("status")
        if not isinstance(status, int):
            raise Unreachable("The proxy's answer to a probe cannot be read.")
        return status

    async def ask(self, target: RouteTarget, path: str, *, method: str = "GET", deadline: float = 8.0) -> Answer:
        """See Routes."""
        question = {"path": path, "method": method, "deadline": deadline}
        fields = {**route_fields(target), "path": target.path, "ask": question}
        content = _reached(await self._call("POST", "/api/ask", fields, {200, 503}, self._patient()))
        try:
            return Answer(int(content["status"]), b64decode(content["body"], validate=True))
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable("The proxy's answer to a question cannot be read.") from error

    def _patient(self) -> AsyncHTTPClient:
        if self._probes is None:
            self._probes = AsyncHTTPClient(force_instance=True, max_clients=PROBES)
        return self._probes

    async def activity(self) -> Mapping[str, Use]:
        """See Routes."""
        try:
            seen = {path: _use(data) for path, data in (await self._routes()).items()}
        except (KeyError, BadInput) as error:
            raise Unreachable("The proxy's list of routes cannot be read.") from error
        return MappingProxyType(seen)

    async def offer(self, server_id: str, key: str) -> None:
        """See Routes."""
        await self._call("POST", f"/api/offers/{quote(server_id, safe='')}", {"key": key}, {201})

    async def withdraw_offer(self, server_id: str) -> None:
        """See Routes."""
        await self._call("DELETE", f"/api/offers/{quote(server_id, safe='')}", None, {204, 404})

    async def offers(self) -> Mapping[str, str]:
        """See Routes."""
        content = _json(await self._call("GET", "/api/offers", None, {200})).get("offers")
        if not isinstance(content, dict):
            raise Unreachable("The proxy's list of offers cannot be read.")
        return MappingProxyType({str(name): str(key) for name, key in content.items()})

    async def revoke(self, session: str) -> None:
        """See Routes."""
        await self._call("POST", "/api/revocations", {"session": session}, {204})

    async def revoke_token(self, digest: str) -> None:
        """See Routes."""
        await self._call("POST", "/api/revocations", {"token": digest}, {204})

    async def revoke_all(self, sessions: Mapping[str, datetime]) -> None:
        """See Routes."""
        left = iter(sessions.items())
        while some := list(islice(left, AT_ONCE)):
            ends = {session: stamp(until) for session, until in some}
            await self._call("POST", "/api/revocations", {"sessions": ends}, {204})

    async def close(self) -> None:
        """Let go of the connections."""
        for client in (self._http, self._probes):
            if client is not None:
                client.close()
        self._http = self._probes = None

    async def _routes(self) -> dict[str, dict[str, Any]]:
        content = _json(await self._call("GET", "/api/routes", None, {200}))
        if not all(isinstance(data, dict) for data in content.values()):
            raise Unreachable("The proxy's list of routes cannot be read.")
        return {path if path.endswith("/") else path + "/": data for path, data in content.items()}

    async def ping(self) -> None:
        """Return if the proxy answers; without the list of all routes. Raises Unreachable."""
        await self._call("GET", "/api/routes/.ping", None, {200, 404})

    async def _call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None,
        good: set[int],
        client: AsyncHTTPClient | None = None,
    ) -> HTTPResponse:
        if self._http is None:  # belongs to the running loop, so it is made late
            self._http = AsyncHTTPClient(force_instance=True, max_clients=CONCURRENCY)
        request = HTTPRequest(
            self._url + path,
            method,
            self._headers,
            None if content is None else json.dumps(dict(content)),
            connect_timeout=DEADLINE,
            request_timeout=DEADLINE,
            follow_redirects=False,
        )
        try:
            answer = await (client or self._http).fetch(request, raise_error=False)
        except (OSError, HTTPClientError) as error:
            raise Unreachable(f"The proxy does not answer at {self._url}: {error}.") from error
        if answer.code == 599:
            raise Unreachable(f"The proxy does not answer at {self._url}: {answer.error}.")
        if answer.code not in good:
            raise Unreachable(
                f"The proxy answered {method} {path} with {answer.code}: {answer.body[:200].decode(errors='replace')}"
            )
        return answer


def _route(path: str) -> str:
    return "/api/routes" + quote("/" + path.strip("/"), safe="@/~")


def _use(data: Mapping[str, Any]) -> Use:
    """Raises BadInput and KeyError."""
    at = read_stamp(str(data["last_activity"]))
    # A proxy of an older version does not tell acts apart.
    return Use(at, read_stamp(str(data["last_act"])) if "last_act" in data else at, str(data.get("server_id", "")))


def _reached(answer: HTTPResponse) -> dict[str, Any]:
    """Raises TunnelError if the application was not."""
    content = _json(answer)
    if answer.code == 503:
        raise TunnelError(str(content.get("message", "The application cannot be reached.")))
    return content


def _json(answer: HTTPResponse) -> dict[str, Any]:
    try:
        content = json.loads(answer.body)
    except ValueError as error:
        raise Unreachable("The proxy's answer is not JSON.") from error
    if not isinstance(content, dict):
        raise Unreachable("The proxy's answer is not a JSON object.")
    return content


def route_fields(target: RouteTarget) -> dict[str, Any]:
    """A route's JSON body."""
    where = target.endpoint
    host = f"[{where.host}]" if ":" in where.host else where.host
    fields: dict[str, Any] = {
        "target": f"http+unix://{quote(where.socket, safe='')}" if where.socket else f"http://{host}:{where.port}",
        "endpoint": {"host": where.host, "port": where.port, "socket": where.socket, "offer": where.offer},
        "owner": target.owner,
        "server_id": target.server_id,
        "server_name": target.server_name,
    }
    if target.authorization:
        fields["authorization"] = target.authorization
    if target.strip_prefix:
        fields["strip_prefix"] = True
    if target.host:
        fields["host"] = target.host
    if target.cluster or target.kind:
        fields["tunnel"] = {"cluster": target.cluster, "kind": target.kind, "account": target.account}
    return fields
