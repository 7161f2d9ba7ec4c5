"""The audit trail's lines of what was done at the command line, written by the command itself: no hub need run."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd

from batchhub.app.events_command import must_be_there
from batchhub.app.state import utc_now
from batchhub.core.deeds import DeedKind, deed
from batchhub.core.errors import HubError, NotFound
from batchhub.store.audit import AuditStore
from batchhub.store.store import Store

log = logging.getLogger(__name__)

AT = "command line"
"""Who did it, for the trail: an account of the machine is no user of the hub."""


def note_chore(url: str, kind: DeedKind, words: str) -> None:
    """It was done. A database that is not there yet, or cannot be asked, undoes nothing: then the trail lacks it, and that is said."""
    try:
        must_be_there(url)
        asyncio.run(_note(url, kind, f"{words}; by {account()}"))
    except NotFound:
        log.debug("no hub has run yet, so there is no audit trail")
    except HubError as error:
        log.warning("The audit trail does not know of it: %s", error)


def account() -> str:
    """The machine's account that runs this, and whose it was before sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    before = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo: {before})" if before and before != name else name


async def _note(url: str, kind: DeedKind, words: str) -> None:
    store = Store(url, clock=utc_now, create=False)
    await store.open()
    try:
        await AuditStore(store).add([deed(utc_now(), kind, by=AT, words=words)])
    finally:
        await store.close()
