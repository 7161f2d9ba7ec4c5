"""The access log and what becomes of exceptions: no query strings, no bodies, no cookies, no control characters."""

from __future__ import annotations

import logging
import secrets

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

access = logging.getLogger("batchhub.web.access")
_REFUSED = frozenset({401, 403, 429})
errors = logging.getLogger("batchhub.web")


def request_words(request: HTTPServerRequest) -> str:
    """Method and path for a log line: bounded, printable, without the query (it may hold what nobody should keep)."""
    path = request.path[:300].encode("unicode_escape").decode("ascii")
    return f"{(request.method or '')[:10]} {path}"


def log_request(handler: RequestHandler) -> None:
    """Tornado's ``log_function``: one line a request."""
    status = handler.get_status()
    who = getattr(handler, "visitor", None)
    # A form that was filled in wrongly, or a page that is not there, is the visitor's business; being refused may be the admin's.
    level = logging.ERROR if status >= 500 else logging.WARNING if status in _REFUSED else logging.INFO
    if request_is_noise(handler.request) and status < 400:
        level = logging.DEBUG
    access.log(
        level,
        "%d %s %s %s %.1fms",
        status,
        request_words(handler.request),
        handler.request.remote_ip,
        who.name if who else "-",
        1000 * handler.request.request_time(),
    )


def request_is_noise(request: HTTPServerRequest) -> bool:
    """Static files and monitoring: asked often, rarely of interest."""
    return "/hub/static/" in request.path or request.path.endswith(("/hub/health", "/hub/metrics"))


def incident(request: HTTPServerRequest, error: BaseException) -> str:
    """Log an exception nobody foresaw; the id printed to the person finds it in the log."""
    number = secrets.token_hex(4)
    errors.error("Incident %s: %s failed", number, request_words(request), exc_info=error)
    return number
