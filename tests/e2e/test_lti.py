"""Out of a course's page on another site, in a real browser, through the real proxy and hub; with third-party cookies blocked."""

import pytest
from playwright.sync_api import Error, expect

from batchhub.app.state import utc_now
from tests.e2e.parts import HubUnderTest, Person, browser
from tests.lti_platform import SECRET, in_a_thread

pytestmark = pytest.mark.browser

CONFIG = """
c.BatchHub.clusters = {"local": {"scheduler": "local", "scheduler_options": {"spool": %(spool)r}}}
c.BatchHub.profiles = [{"name": "lab", "fields": {"cores": {"default": 1, "max": 8}}}, {"name": "other", "fields": {"cores": {}}}]
c.BatchHub.authenticator_class = ["lti13", "lti11"]
c.LTI13Authenticator.platforms = {%(issuer)r: %(platform)r}
c.LTI13Authenticator.allowed_groups = {"course:42"}
c.LTI11Authenticator.consumers = {"campus": {"secret_file": %(secret)r, "title": "Campus", "frame_origins": [%(issuer)r]}}
c.LTI11Authenticator.allow_all = True
c.LTI11Authenticator.username_prefix = "old-"
c.LTI13Authenticator.username_prefix = "new-"
"""


def test_from_a_courses_frame_into_a_tab_of_its_own(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    (tmp_path / "queue").mkdir(mode=0o700)
    hub = HubUnderTest(tmp_path, "")
    # Two names of one machine are two sites to a browser.
    with in_a_thread(utc_now, "localhost") as platform:
        platform.login, platform.launch = f"{hub.url}/hub/lti13/oauth_login", f"{hub.url}/hub/lti/launch"
        platform.target = f"{hub.url}/hub/lti13/oauth_callback"
        platform.redirects.add(platform.target)
        platform.target += "?profile=lab&cores=3"
        words = {
            "spool": str(tmp_path / "queue"),
            "issuer": platform.issuer,
            "platform": platform.table(),
            "secret": str(secret),
        }
        hub.config.write_text(hub.config.read_text() + CONFIG % words)
        try:
            hub.start()
            with browser("--test-third-party-cookie-phaseout") as chromium:
                for act in (by_1_3, by_1_1, alone):
                    person = Person(chromium, hub)
                    try:
                        act(person, platform)
                    except Exception as error:
                        raise AssertionError(f"{act.__name__}\n{seen(person)}\n{hub.logs()}") from error
            assert SECRET not in hub.logs()
            assert "id_token" not in hub.logs()
        finally:
            hub.stop()


def seen(person):
    """What is in each tab and frame: a frame that could not be loaded says so there alone."""
    found = []
    for frame in (frame for page in person.context.pages for frame in page.frames):
        try:
            text = frame.locator("body").inner_text(timeout=5000)
        except Error as error:
            text = str(error)
        found.append(f"--- {frame.url}\n{text[:800]}")
    return "\n".join(found)


def by_1_3(ann, platform):
    """The sign-in begins in the new tab, and the course's link opens the form that it names."""
    page = ann.page
    page.goto(f"{platform.issuer}/course?show=start")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Open BatchHub")).to_be_visible()
    assert not ann.cookies()
    with page.context.expect_page() as opened:
        frame.get_by_text("Open in a new tab").click()
    tab = opened.value
    tab.wait_for_url("**/hub/spawn/new-ann7?profile=lab&cores=3")
    expect(tab.locator("#field-cores")).to_have_value("3")
    assert "batchhub-session" in ann.cookies()
    assert not any(name.startswith("batchhub-away") for name in ann.cookies())
    assert tab.evaluate("window.opener") is None
    expect(page.get_by_role("heading", name="Physics 101")).to_be_visible()


def by_1_1(ann, platform):
    """The page in the frame says who one would be; in its own tab the person is signed in."""
    page = ann.page
    page.goto(f"{platform.issuer}/course?show=start11")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("Ann Example (Campus)")).to_be_visible()
    with page.context.expect_page() as opened:
        frame.get_by_role("button", name="Open in a new tab").click()
    opened.value.wait_for_url("**/hub/home")
    expect(opened.value.get_by_text("old-ann7").first).to_be_visible()
    # The same form, pressed again, is used up.
    with page.context.expect_page() as again:
        frame.get_by_role("button", name="Open in a new tab").click()
    expect(again.value.get_by_text("Please open it from your course again")).to_be_visible()


def alone(ann, platform):
    """Platforms that open a window of their own: 1.3 goes straight on; a 1.1 form that posts itself still asks."""
    page = ann.page
    page.goto(f"{platform.issuer}/start11")
    page.wait_for_url("**/hub/lti/launch")
    expect(page.get_by_text("Ann Example (Campus)")).to_be_visible()
    assert "batchhub-session" not in ann.cookies()
    page.goto(f"{platform.issuer}/start?hint=hint-tom")
    page.wait_for_url("**/hub/spawn/new-x-*")
    assert "batchhub-session" in ann.cookies()
