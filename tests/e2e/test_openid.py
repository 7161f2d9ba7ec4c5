"""Signing in at a real OpenID provider's page, in a real browser, through the real proxy and hub."""

import asyncio

import pytest
from playwright.sync_api import expect

from tests.e2e.parts import HubUnderTest, Person, browser
from tests.openid import RealProvider

pytestmark = pytest.mark.browser

CONFIG = """
c.BatchHub.clusters = {"local": {"scheduler": "local", "scheduler_options": {"spool": %r}}}
c.BatchHub.profiles = [{"name": "lab"}]
c.BatchHub.authenticator_class = "oidc"
c.OIDCAuthenticator.issuer = %r
c.OIDCAuthenticator.client_id = "batchhub"
c.OIDCAuthenticator.client_secret_file = %r
c.OIDCAuthenticator.groups_claim = "groups"
c.OIDCAuthenticator.allowed_groups = {"physics"}
c.OIDCAuthenticator.login_service = "Example University"
"""


def test_there_and_back_in_a_browser(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the hub's own secret")
    secret.chmod(0o600)
    (tmp_path / "queue").mkdir(mode=0o700)
    hub = HubUnderTest(tmp_path, "")
    provider = RealProvider("batchhub", "the hub's own secret", f"{hub.url}/hub/oauth_callback")
    try:
        issuer = asyncio.run(provider.start())
        hub.config.write_text(hub.config.read_text() + CONFIG % (str(tmp_path / "queue"), issuer, str(secret)))
        hub.start()
        with browser() as chromium:
            eve = Person(chromium, hub)
            come(eve, "eve")
            expect(
                eve.page.get_by_text("Example University knows you, but this hub does not let you in")
            ).to_be_visible()
            ann = Person(chromium, hub)
            come(ann, "ann")
            ann.page.wait_for_url("**/hub/token")
            assert "batchhub-session" in ann.cookies()
            assert not any(name.startswith("batchhub-away") for name in ann.cookies())
        assert "the hub's own secret" not in hub.logs()
    finally:
        hub.stop()
        provider.close()


def come(person: Person, name: str) -> None:
    """From the page somebody wanted to see, over the provider's pages, back."""
    page = person.page
    page.goto(f"{person.hub.url}/hub/token")
    page.get_by_text("Sign in with Example University").click()
    page.locator("input[name=login]").fill(name)
    page.locator("input[name=password]").fill("any")
    page.locator("button[type=submit]").click()
    page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    page.locator("button[type=submit]").click()
