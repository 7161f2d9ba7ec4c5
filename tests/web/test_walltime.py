"""Warnings before the end of a server's time and the request for more: pages, API, streams."""

import json
from datetime import timedelta

import pytest

from batchhub.core.errors import Denied
from batchhub.core.model import JobId, Phase
from batchhub.web.models import brief, fingerprint
from tests.web.fakes import LIMITED, RUNNING, START, Site

HOUR = timedelta(hours=1)
ENDS = START + timedelta(minutes=12)


def ready(site: Site, name: str = "", *, warned: bool = True, offers: tuple[timedelta, ...] = ()) -> None:
    site.hub.put(
        "ann", name, phase=Phase.READY, host="n3", job_id=JobId("4711"), warned=ENDS if warned else None, report=LIMITED
    )
    site.hub.offered_times = offers


async def test_home_warns_at_the_server(site: Site) -> None:
    browser = await site.signed_in()
    ready(site)
    await browser.get("hub/home")
    browser.has("Its time is up at", "2026-03-01 09:42 UTC", ", in", "Save your work: whatever runs")
    assert "More time" not in browser.text
    ready(site, warned=False)
    await browser.get("hub/home")
    assert "Its time is up" not in browser.text


async def test_an_end_that_moved_is_warned_of_no_more(site: Site) -> None:
    browser = await site.signed_in()
    ready(site)
    site.hub.move("ann", report=RUNNING)
    await browser.get("hub/home")
    assert "Its time is up" not in browser.text


async def test_more_time_is_asked_for_at_the_server(site: Site) -> None:
    browser = await site.signed_in()
    ready(site, offers=(3 * HOUR, 5 * HOUR))
    await browser.get("hub/home")
    browser.has("Save your work, or ask for more time", "More time", "+ 48m (3h in all)", "Ask for it")
    answer = await browser.post("hub/extend/ann", walltime="10800")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/home")
    assert site.hub.calls[-1] == ("extend", "ann", "", 3 * HOUR, "ann")


async def test_a_refusal_stands_at_the_button(site: Site) -> None:
    browser = await site.signed_in()
    ready(site, offers=(3 * HOUR,))
    await browser.get("hub/home")
    site.hub.refuse = Denied("Slurm does not permit it: Access/permission denied for job 4711")
    answer = await browser.post("hub/extend/ann", walltime="10800")
    assert answer.code == 403
    browser.has("Slurm does not permit it: Access/permission denied for job 4711", "Your servers", 'role="alert"')
    answer = await browser.post("hub/extend/ann", walltime="soon")
    assert answer.code == 400
    browser.has("'soon' is not a time")


async def test_nobody_else_and_no_other_site_asks(site: Site) -> None:
    browser = await site.signed_in()
    ready(site, offers=(3 * HOUR,))
    await browser.get("hub/home")
    assert (await browser.post("hub/extend/bob", walltime="10800")).code == 403
    assert (await browser.post("hub/extend/ann", {"Sec-Fetch-Site": "cross-site"}, walltime="10800")).code == 403
    browser.xsrf = "no"
    assert (await browser.post("hub/extend/ann", walltime="10800")).code == 403
    assert not [call for call in site.hub.calls if call[0] == "extend"]  # type: ignore[index]
    assert (await browser.get("hub/extend/ann")).code == 302


async def ask(
    site: Site, body: object, path: str = "hub/api/users/ann/server/extend", who: str = "ann"
) -> tuple[int, dict]:
    browser = await site.signed_in(who)
    await browser.get("hub/home")
    headers = {"X-XSRFToken": browser.xsrf, "Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
    answer = await browser.ask("POST", path, body=json.dumps(body), headers=headers)
    return answer.code, json.loads(answer.body)


@pytest.mark.parametrize(("value", "span"), [(10800, 3 * HOUR), ("3h", 3 * HOUR), ("1-00:00:00", 24 * HOUR)])
async def test_more_time_by_api(site: Site, value: object, span: timedelta) -> None:
    ready(site, offers=(3 * HOUR,))
    code, model = await ask(site, {"walltime": value})
    assert code == 200
    assert (model["walltime"], model["ends"], model["offers"]) == (7920, "2026-03-01T09:42:00Z", [10800])
    assert site.hub.calls[-1] == ("extend", "ann", "", span, "ann")


@pytest.mark.parametrize("value", [None, True, 0, -1, 1e12, "90", [], {}])
async def test_what_is_no_time(site: Site, value: object) -> None:
    ready(site)
    code, answer = await ask(site, {"walltime": value})
    assert code == 400
    assert "walltime" in answer["message"] or "is not a time" in answer["message"]


async def test_whose_time_by_api(site: Site) -> None:
    ready(site, "gpu")
    assert (await ask(site, {"walltime": "3h"}, who="bob"))[0] == 404
    code, _ = await ask(site, {"walltime": "3h"}, "hub/api/users/ann/servers/gpu/extend", who="root")
    assert code == 200
    assert site.hub.calls[-1] == ("extend", "ann", "gpu", 3 * HOUR, "root")


async def test_the_stream_of_one_s_servers_says_it(site: Site) -> None:
    ready(site, warned=False)
    before = await state(site)
    ready(site)
    after = await state(site)
    assert (before["servers"][0]["ends"], after["servers"][0]["ends"]) == (None, "2026-03-01T09:42:00Z")
    assert before["state"] != after["state"]


async def state(site: Site) -> dict:
    """What the stream sends."""
    views = await site.hub.servers_of("ann")  # type: ignore[arg-type]
    return {"state": fingerprint(views), "servers": [brief(view) for view in views]}
