"""The page of one's SSH keys, and what the form says to somebody the hub cannot act as."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from batchhub.auth.keys import authorized_line, new_key
from batchhub.core.errors import NotFound, TooMany
from batchhub.core.personal import Missing, Remedy
from batchhub.web.ports import KeyTest, KeyView
from tests.web.fakes import START, Site, open_site
from tests.web.test_browser import by_password, chromium, tab

__all__ = ["chromium"]
REFUSED = KeyTest(False, "login1 refused the key of user <ann>.")


class Book:
    """Keys in memory; the test says what the cluster says. The real one is in tests/app/test_owning.py, with a real sshd."""

    def __init__(self) -> None:
        self.views: dict[str, KeyView] = {}
        self.says: KeyTest | TooMany = REFUSED

    def of(self, user: str) -> KeyView:
        return self.views.get(user, KeyView("hpc", "The HPC", user, "login1"))

    async def keys(self, user):
        return [self.of(user)]

    async def make(self, user, cluster):
        if cluster != "hpc":
            raise NotFound("No cluster of this name is reached by keys of people's own.")
        line = authorized_line(new_key()[1], f"batchhub-{user}", ())
        self.views[user] = replace(self.of(user), line=line, created=START, works=None)

    async def remove(self, user, cluster):
        if self.views.pop(user, None) is None:
            raise NotFound("You have no such key (any more).")

    async def test(self, user, cluster):
        if isinstance(self.says, TooMany):
            raise self.says
        if self.says.works:
            self.views[user] = replace(self.of(user), works=START)
        return self.says


@pytest.fixture
def book() -> Book:
    return Book()


@pytest_asyncio.fixture
async def keyed(book: Book) -> AsyncIterator[Site]:
    site = open_site(keys=book)
    yield site
    site.server.stop()
    await site.server.close_all_connections()


PAGE = "hub/settings/keys"


async def test_make_test_and_remove(keyed: Site, book: Book) -> None:
    ann, eve = await keyed.signed_in("ann"), await keyed.signed_in("eve")
    await ann.get(PAGE)
    ann.has("No key yet", "Account ann on login1", "Make a key")
    assert (await ann.post(PAGE, cluster="hpc", do="make")).headers["Location"] == "/hub/settings/keys"
    await ann.get(PAGE)
    ann.has("restrict ssh-ed25519 AAAA", "not known to work", book.views["ann"].line)
    await eve.get(PAGE)
    eve.has("No key yet")
    assert (await ann.post(PAGE, cluster="hpc", do="test")).code == 200
    ann.has("refused the key of user <ann>")
    assert "<ann>" not in ann.text
    book.says = KeyTest(True, "login1 takes the key.")
    await ann.post(PAGE, cluster="hpc", do="test")
    ann.has("login1 takes the key.", "Works, as tried")
    before = book.views["ann"].line
    await ann.post(PAGE, cluster="hpc", do="make")
    assert book.views["ann"].line != before
    assert (await ann.post(PAGE, cluster="hpc", do="remove")).code == 303
    assert (await ann.post(PAGE, cluster="hpc", do="remove")).code == 404
    ann.has("You have no such key (any more).")


@pytest.mark.parametrize(
    ("fields", "code"), [({}, 404), ({"do": "sell"}, 404), ({"do": "make", "cluster": "x" * 900}, 404)]
)
async def test_nonsense(keyed: Site, fields: dict[str, str], code: int) -> None:
    ann = await keyed.signed_in("ann")
    await ann.get(PAGE)
    assert (await ann.post(PAGE, **fields)).code == code


async def test_too_often(keyed: Site, book: Book) -> None:
    book.says = TooMany("One at a time.")
    ann = await keyed.signed_in("ann")
    await ann.get(PAGE)
    assert (await ann.post(PAGE, cluster="hpc", do="test")).code == 429
    ann.has("One at a time.")


async def test_not_for_strangers_nor_other_sites(keyed: Site, book: Book) -> None:
    assert (await keyed.browser().get(PAGE)).code == 302
    ann = await keyed.signed_in("ann")
    await ann.get(PAGE)
    ann.xsrf = ""
    assert (await ann.post(PAGE, cluster="hpc", do="make")).code == 403
    assert book.views == {}


async def test_where_no_cluster_wants_one(site: Site) -> None:
    ann = await site.signed_in("ann")
    assert (await ann.get(PAGE)).code == 404
    await ann.get("hub/settings/sessions")
    ann.has("Tokens")
    assert "SSH keys" not in ann.text


async def test_the_form_says_what_to_do(keyed: Site) -> None:
    ann = await keyed.signed_in("ann")
    keyed.hub.missing = Missing("You have no key yet.", Remedy.KEYS)
    await ann.get("hub/spawn/ann?profile=lab")
    ann.has("You have no key yet.", 'href="/hub/settings/keys"')
    keyed.hub.missing = Missing("Sign out and in again.", Remedy.SIGN_IN)
    await ann.get("hub/spawn/ann?profile=lab")
    ann.has("Sign out and in again.")


@pytest.mark.browser
async def test_in_a_browser(keyed: Site, book: Book, chromium: Any) -> None:
    async with tab(chromium, keyed) as page:
        await by_password(page)
        await page.get_by_role("link", name="Settings").click()
        await page.get_by_role("link", name="SSH keys").click()
        await page.get_by_role("button", name="Make a key").click()
        await expect(page.get_by_label("Add this one line to")).to_have_value(book.views["ann"].line)
        await page.get_by_role("button", name="Test").click()
        await expect(page.locator("#problems")).to_contain_text("refused the key")
        book.says = KeyTest(True, "login1 takes the key.")
        await page.get_by_role("button", name="Test").click()
        await expect(page.get_by_text("Works, as tried")).to_be_visible()
        asked: list[str] = []

        async def no(dialog: Any) -> None:
            asked.append(dialog.message)
            await dialog.dismiss()

        page.on("dialog", no)
        await page.get_by_role("button", name="Replace").click()
        await page.get_by_role("button", name="Remove").click()
        assert [words.split("?")[0] for words in asked] == ["Replace the key", "Remove the key"]
        assert book.views["ann"].works is not None
