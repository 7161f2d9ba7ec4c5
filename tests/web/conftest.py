from collections.abc import AsyncIterator

import pytest_asyncio

from tests.web.fakes import Browser, Site, open_site


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    opened = open_site()
    yield opened
    opened.server.stop()
    await opened.server.close_all_connections()


@pytest_asyncio.fixture
async def ann(site: Site) -> Browser:
    return await site.signed_in("ann")
