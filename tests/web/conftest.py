import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from batchhub.auth.audit import AuditTrail
from batchhub.store.audit import AuditStore
from batchhub.store.persons import Persons
from batchhub.store.store import Store
from batchhub.web.ports import WebSettings
from tests.web.fakes import Browser, Clock, Database, Site, open_site


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    opened = open_site()
    yield opened
    opened.server.stop()
    await opened.server.close_all_connections()


@pytest_asyncio.fixture
async def ann(site: Site) -> Browser:
    return await site.signed_in("ann")


@pytest_asyncio.fixture
async def kept() -> AsyncIterator[Site]:
    """A site with a real database. Its streams are looked after by nobody for an hour: what ends one is a word about its end."""
    clock = Clock()
    store = Store("sqlite://", clock=clock)
    await store.open()
    deeds = AuditStore(store)
    audit = AuditTrail(deeds, clock)
    keeping = asyncio.get_running_loop().create_task(audit.keep(), name="audit")
    database = Database(store, Persons(store), audit, deeds, clock)
    opened = open_site(WebSettings(poll=3600.0, keep_alive=3600.0), database=database)
    yield opened
    opened.server.stop()
    await opened.server.close_all_connections()
    await audit.close()
    await keeping
    await store.close()
