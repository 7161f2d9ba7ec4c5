"""What the REST API's handlers share: tokens, JSON in and out, whose servers may be asked for."""

from __future__ import annotations

import json
from typing import Any

from tornado.web import HTTPError

from batchhub.core.errors import BadInput, Denied, InvalidForm, NotFound
from batchhub.core.model import UserName
from batchhub.web.base import Handler, authorized
from batchhub.web.ports import Visitor

MAX_TOKEN = 512


class ApiHandler(Handler):
    """JSON for programs and for our own pages' scripts."""

    async def find_visitor(self) -> Visitor | None:
        """By ``Authorization: token …`` (or ``Bearer``); only without that header by the session cookie."""
        if not authorized(self.request):
            return await super().find_visitor()
        token = bearer_token(self)
        return await self.web.services.people.bearer(token, self) if token else None

    def ask_to_sign_in(self) -> None:
        """JupyterHub's answer: 403, which its single-user servers read as "not signed in"."""
        raise Denied("Missing or invalid credentials.")

    def subject(self, user: str) -> UserName:
        """Whose server is meant: one's own, or anybody's for an admin. For others there is nothing here. Raises NotFound."""
        if user != self.me.name and not self.me.admin:
            raise NotFound(f"There is no user {user[:40]!r}, or not for you.")
        return UserName(user)

    def json_body(self) -> dict[str, Any]:
        """The body as a JSON object, empty if there is none. Raises BadInput.

        With a cookie the type must be said: other sites' forms cannot say ``application/json``.
        """
        body = self.request.body
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and (body or not self.me.token_id) and self.request.method == "POST":
            raise BadInput("The body must be JSON and say so: Content-Type: application/json.")
        if not body:
            return {}
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadInput("The body is not JSON.") from error
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise BadInput("The body must be a JSON object.")
        return found

    def answer(self, data: dict[str, Any], status: int = 200) -> None:
        """Send JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(data)

    def empty(self, status: int) -> None:
        """Send a code alone, as JupyterHub does: text, without content."""
        self.set_status(status)
        if status == 204:
            self.clear_header("Content-Type")
        else:
            self.set_header("Content-Type", "text/plain")
        self.finish()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As everywhere; the fields of a form that does not fit are listed too."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, InvalidForm):
            self.answer({"status": 400, "message": str(error), "fields": dict(error.fields)}, 400)
            return
        super().write_error(status_code, **kwargs)


def bearer_token(handler: Handler) -> str:
    """The token of ``Authorization: token …`` or ``Bearer …``, whatever its case; empty if there is none that can be one."""
    scheme, _, token = handler.request.headers.get("Authorization", "").strip().partition(" ")
    token = token.strip()
    fine = (
        scheme.lower() in {"token", "bearer"}
        and 0 < len(token) <= MAX_TOKEN
        and token.isascii()
        and token.isprintable()
    )
    return token if fine else ""


def from_here(handler: Handler) -> bool:
    """A program on this machine asks, not somebody through a proxy on it."""
    forwarded = {"X-Forwarded-For", "Forwarded", "X-Real-Ip"} & set(handler.request.headers)
    return not forwarded and handler.request.remote_ip in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class UnknownApi(ApiHandler):
    """Any other address below the API: JSON 404, whoever asks and however."""

    signed_in = False
    guarded = False

    async def prepare(self) -> None:
        """Before the method is looked at, so that an unknown one gets the same answer."""
        del self
        raise HTTPError(404)
