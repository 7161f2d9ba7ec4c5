"""The clock of an authenticator that is made without one, as a site's own script does; the programs hand theirs in."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)  # noqa: TID251  (what app hands in as well, for a site's own script)
