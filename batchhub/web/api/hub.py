"""The hub itself and the caller: version, who am I, health, metrics, a job's word."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from batchhub.core.errors import Denied, NotFound
from batchhub.web.api.base import ApiHandler, bearer_token, from_here
from batchhub.web.models import user_model


class RootApi(ApiHandler):
    """``GET /hub/api``: the version, for anybody; single-user servers ask for it before they start."""

    signed_in = False
    guarded = False

    def get(self) -> None:
        """JupyterHub's version whose API this is, with ours behind the ``+``."""
        self.set_header("Access-Control-Allow-Origin", "*")
        self.answer({"version": self.web.settings.api_version})


class WhoApi(ApiHandler):
    """``GET /hub/api/user``: the caller; 403 for everybody unknown."""

    async def get(self) -> None:
        """JupyterHub's user model."""
        views = await self.web.services.hub.servers_of(self.me.name)
        self.answer(user_model(self.me, views, self.web.links))


class UserApi(ApiHandler):
    """``GET /hub/api/users/NAME``."""

    async def get(self, user: str) -> None:
        """One's own model."""
        if user != self.me.name:
            raise NotFound(f"There is no user {user[:40]!r}, or not for you.")
        views = await self.web.services.hub.servers_of(self.me.name)
        self.answer(user_model(self.me, views, self.web.links))


class ConnectionApi(ApiHandler):
    """``POST /hub/api/jobs/ID/connection``: a job says where its application listens. Its own token is the proof."""

    signed_in = False
    guarded = False
    max_body = 8 * 1024

    async def find_visitor(self) -> None:
        """A job is no visitor."""

    async def post(self, server_id: str) -> None:
        """Hand it to the control plane, which checks the token and every field."""
        token = bearer_token(self)
        if not token:
            raise Denied("Missing or invalid credentials.")
        await self.web.services.hub.connected(server_id, token, self.request.body)
        self.empty(204)


class HealthApi(ApiHandler):
    """``GET /hub/health``: 200 if every part is well, 503 if not; what ails a part is told to this machine and admins only."""

    signed_in = False
    guarded = False

    async def find_visitor(self) -> None:
        """Asked without a session: the database may be what is ill."""

    async def get(self) -> None:
        """Each part, and whether it is well."""
        parts = dict(await self.web.services.hub.health())
        leader = parts.pop("leader", None)
        if leader is not None:
            parts["lead"] = "ok" if leader else "no hub leads at the moment, so nothing starts or stops"
        well = all(word == "ok" for word in parts.values())
        more = {"leader": leader} if leader and from_here(self) else {}
        if not from_here(self):
            parts = {part: word if word == "ok" else "not well" for part, word in parts.items()}
        self.answer({"status": "ok" if well else "not well", "parts": parts, **more}, 200 if well else 503)


class MetricsApi(ApiHandler):
    """``GET /hub/metrics``: Prometheus text, for this machine and admins' tokens unless the site opens it."""

    signed_in = False
    guarded = False

    def get(self) -> None:
        """Everything registered."""
        admin = self.visitor is not None and self.visitor.admin
        if not (admin or self.web.settings.metrics == "all" or from_here(self)):
            raise Denied("Metrics are for administrators.")
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self.web.services.registry))
