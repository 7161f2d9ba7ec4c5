"""Servers and people as JSON: JupyterHub's fields, and ours beside them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from batchhub.control.ports import TrailEvent
from batchhub.control.service import ServerView
from batchhub.core.model import Phase, Want
from batchhub.web.links import Links
from batchhub.web.ports import Visitor
from batchhub.web.render import iso, tone

_PENDING = {Phase.REQUESTED: "spawn", Phase.QUEUED: "spawn", Phase.STARTING: "spawn", Phase.STOPPING: "stop"}


def is_ready(view: ServerView) -> bool:
    """It can be entered."""
    return view.server.phase is Phase.READY and view.server.want is Want.UP


def pending(view: ServerView) -> str | None:
    """JupyterHub's word for what is under way: ``spawn``, ``stop`` or nothing."""
    if view.server.alive and view.server.want is Want.DOWN:
        return "stop"
    return _PENDING.get(view.server.phase)


def server_model(view: ServerView, links: Links) -> dict[str, Any]:
    """JupyterHub's server model with our state in words added."""
    server, status = view.server, view.status
    return {
        "name": server.name,
        "full_name": f"{server.user}/{server.name}",
        "last_activity": iso(server.active or server.answered or server.created),
        "started": iso(server.created),
        "pending": pending(view),
        "ready": is_ready(view),
        "stopped": not server.alive,
        "url": links.server(server.user, server.name),
        "full_url": links.enter(server.user, server.name) if links.origin else None,
        "user_options": {"profile": server.profile, **server.options},
        "progress_url": links.progress(server.user, server.name),
        "phase": server.phase.value,
        "title": status.title,
        "sentence": status.sentence,
        "detail": status.detail,
        "cluster": server.cluster,
        "job_id": server.job_id,
        "node": server.host or None,
        "outcome": server.outcome.value if server.outcome else None,
        "exit_code": server.exit_code,
        "ends": iso(status.ends) if status.ends else None,
        "walltime": _seconds(status.walltime),
        "offers": [_seconds(offer) for offer in view.offers],
    }


def _seconds(span: timedelta | None) -> int | None:
    return None if span is None else int(span.total_seconds())


def user_model(visitor: Visitor, views: Sequence[ServerView], links: Links) -> dict[str, Any]:
    """JupyterHub's user model: what a single-user server and API clients ask about the caller."""
    live = {view.server.name: view for view in views if view.server.alive}
    default = live.get("")
    return {
        "kind": "user",
        "name": visitor.name,
        "admin": visitor.admin,
        "groups": [],
        "roles": ["user", "admin"] if visitor.admin else ["user"],
        "scopes": scopes(visitor),
        "session_id": None,
        "token_id": visitor.token_id or None,
        "server": links.server(visitor.name) if default and is_ready(default) else None,
        "pending": pending(default) if default else None,
        "servers": {name: server_model(view, links) for name, view in live.items()},
    }


def scopes(visitor: Visitor) -> list[str]:
    """What the caller may do, in JupyterHub's words."""
    own = ("access:servers", "delete:servers", "read:servers", "read:users", "servers", "start:servers")
    found = [f"{scope}!user={visitor.name}" for scope in own]
    if visitor.admin:
        found += ["admin-ui", "delete:servers", "read:servers"]
    return sorted(found)


def progress_event(view: ServerView, links: Links) -> dict[str, Any]:
    """One event of the progress stream; the last one has ``ready`` or ``failed``."""
    server, status = view.server, view.status
    event: dict[str, Any] = {
        "progress": status.progress,
        "message": f"{status.title}: {status.sentence}",
        "phase": server.phase.value,
        "title": status.title,
        "sentence": status.sentence,
        "detail": status.detail,
        "job_id": server.job_id,
        "node": server.host or None,
        "since": iso(server.since),
        "estimated_start": iso(status.estimated_start) if status.estimated_start else None,
        "silent_since": iso(status.silent_since) if status.silent_since else None,
        "time_left": _seconds(status.time_left),
        "ends": iso(status.ends) if status.ends else None,
    }
    if is_ready(view):
        event |= {"progress": 100, "ready": True, "url": links.enter(server.user, server.name)}
    elif server.phase is Phase.ENDED:
        event |= {
            "progress": 100,
            "failed": True,
            "outcome": server.outcome.value if server.outcome else None,
            "exit_code": server.exit_code,
            "log_tail": server.log_tail,
        }
    return event


def event_model(event: TrailEvent) -> dict[str, Any]:
    """A line of a run's trail."""
    return {
        "time": event.at.isoformat(),
        "kind": event.kind,
        "by": event.by,
        "seen": event.seen,
        "done": event.done,
        "words": event.words,
    }


def run_model(view: ServerView) -> dict[str, Any]:
    """A run among those of its name."""
    server = view.server
    return {
        "id": server.id,
        "phase": server.phase.value,
        "title": view.status.title,
        "profile": server.profile,
        "cluster": server.cluster,
        "job_id": server.job_id,
        "node": server.host or None,
        "requested": iso(server.created),
        "ended": iso(server.ended) if server.ended else None,
        "outcome": server.outcome.value if server.outcome else None,
        "exit_code": server.exit_code,
    }


def brief(view: ServerView) -> dict[str, Any]:
    """A server in the stream of one's own servers."""
    server, status = view.server, view.status
    return {
        "name": server.name,
        "phase": server.phase.value,
        "tone": tone(view),
        "title": status.title,
        "sentence": status.sentence,
        "job_id": server.job_id,
        "node": server.host or None,
        "time_left": _seconds(status.time_left),
        "ends": iso(status.ends) if status.ends else None,
    }


def fingerprint(views: Sequence[ServerView]) -> str:
    """Changes when, and only when, the list of servers would print differently. Time left is not part of it: pages count it down."""
    parts = [
        (
            view.server.id,
            view.server.phase.value,
            view.server.want.value,
            view.server.job_id,
            view.server.host,
            view.status.title,
            view.status.sentence,
            view.status.detail,
            view.status.time_left is None,
            view.status.estimated_start,
            view.status.walltime,
            view.status.ends,
            view.offers,
        )
        for view in views
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
