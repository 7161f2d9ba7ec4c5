"""The REST API's codes, the event streams, what a stopped server answers, and tickets for the proxy."""

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

import pytest

from batchhub.core import tickets
from batchhub.core.errors import SubmitRejected, TooMany, Unreachable
from batchhub.core.model import JobId, Outcome, Phase, Want
from tests.web.fakes import FAILED, KEY, PENDING, START, Browser, Site

OPTIONS = {"profile": "lab", "cores": 4, "walltime": "2h", "memory": 2048, "environment": "2026.1"}


async def token_of(browser: Browser) -> dict[str, str]:
    await browser.get("/hub/token")
    await browser.post("/hub/token", note="t", days="7")
    return {"Authorization": "Bearer " + re.search(r'fresh-token">([^<]+)<', browser.text)[1]}


class Program:
    """An API client."""

    def __init__(self, site: Site, headers: dict[str, str]) -> None:
        self.browser, self.headers = site.browser(), headers

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        sent = {"Accept": "application/json", **self.headers, **headers}
        if method == "POST":
            sent.setdefault("Content-Type", "application/json")
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        answer = await self.browser.ask(method, f"/hub/api{path}", body=data, headers=sent)
        assert "X-JupyterHub-Version" in answer.headers
        kind = answer.headers.get("Content-Type", "")
        return answer.code, json.loads(answer.body) if "json" in kind else answer.body


@pytest.fixture
async def call(site: Site, ann: Browser) -> Program:
    return Program(site, await token_of(ann))


async def test_a_token_opens_no_page(site: Site) -> None:
    """So a stolen one makes no other, and ends when it is revoked."""
    root = await site.signed_in("root")
    headers = await token_of(root)
    for path in ("home", "token", "settings/sessions", "admin", "admin/people/root", "access?next=/user/root/"):
        answer = await site.browser().ask("GET", f"/hub/{path}", headers=headers)
        assert (answer.code, answer.headers["Location"].partition("?")[0]) == (302, "/hub/login"), path
        answer = await site.browser().ask("POST", f"/hub/{path}", body="note=x&days=1", headers=headers)
        assert answer.code in {403, 405}, path
    assert len(site.store.access) == 1


async def test_the_version_is_for_everybody_and_readable(site: Site) -> None:
    for path in ("/hub/api", "/hub/api/"):
        answer = await site.browser().get(path)
        assert answer.code == 200
        assert answer.headers["X-JupyterHub-Version"] == "5.5.4+batchhub.0.1.0"
        assert json.loads(answer.body) == {"version": "5.5.4+batchhub.0.1.0"}


async def test_who_am_i(site: Site, ann: Browser, call: Program) -> None:
    site.hub.put("ann", phase=Phase.READY)
    code, me = await call("GET", "/user")
    assert code == 200
    assert (me["kind"], me["name"], me["admin"], me["server"]) == ("user", "ann", False, "/user/ann/")
    assert "access:servers!user=ann" in me["scopes"]
    assert me["servers"][""]["ready"] is True
    assert (await call("GET", "/users/ann"))[0] == 200
    assert (await call("GET", "/users/bob"))[0] == 404
    assert (await ann.get("/hub/api/user")).code == 200


@pytest.mark.parametrize("given", ["", "token", "token bh_" + "x" * 43, "Basicbh_", "bearer " + "x" * 5000, "token ä"])
async def test_bad_credentials_are_403_json_even_beside_a_cookie(site: Site, ann: Browser, given: str) -> None:
    for browser in (site.browser(), ann):
        answer = await browser.get("/hub/api/user", Authorization=given)
        assert answer.code == 403
        assert json.loads(answer.body) == {"status": 403, "message": "Missing or invalid credentials."}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_unknown_addresses_are_json_404(call: Program, method: str) -> None:
    assert await call(method, "/nothing/here") == (404, {"status": 404, "message": "There is nothing at this address."})


async def test_cookies_need_the_header_where_scripts_ask(ann: Browser) -> None:
    await ann.get("/hub/home")
    cors = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
    with_token = {**cors, "X-XSRFToken": ann.xsrf}
    assert (await ann.ask("GET", "/hub/api/user", headers=cors)).code == 403
    assert (await ann.ask("GET", "/hub/api/user", headers=with_token)).code == 200
    body = json.dumps(OPTIONS)
    assert (await ann.ask("POST", "/hub/api/users/ann/server", body=body, headers=cors)).code == 403
    form = {**with_token, "Content-Type": "text/plain"}
    assert (await ann.ask("POST", "/hub/api/users/ann/server", body=body, headers=form)).code == 400
    assert (await ann.ask("POST", "/hub/api/users/ann/server", body=body, headers=with_token)).code == 202


async def test_start_look_stop(site: Site, call: Program) -> None:
    assert (await call("GET", "/users/ann/server"))[0] == 404
    assert await call("POST", "/users/ann/server", OPTIONS) == (202, b"")
    assert site.hub.rows["ann", ""].options["memory"] == 2048
    assert site.hub.rows["ann", ""].options["walltime"] == 7200
    code, model = await call("GET", "/users/ann/server")
    assert (code, model["pending"], model["ready"], model["job_id"]) == (200, "spawn", False, "4711")
    assert model["progress_url"] == "/hub/api/users/ann/server/progress"
    assert await call("POST", "/users/ann/server", OPTIONS) == (202, b"")
    site.hub.move("ann", phase=Phase.READY, active=START + timedelta(hours=1))
    assert model["last_activity"] == model["started"], "nobody could use it yet"
    assert (await call("GET", "/users/ann/server"))[1]["last_activity"] > model["started"]
    assert (await call("POST", "/users/ann/server", OPTIONS))[0] == 400
    assert await call("DELETE", "/users/ann/server") == (202, b"")
    assert (await call("POST", "/users/ann/server", OPTIONS))[0] == 400
    site.hub.move("ann", phase=Phase.ENDED, outcome=Outcome.STOPPED)
    assert await call("DELETE", "/users/ann/server") == (204, b"")
    assert (await call("GET", "/users/ann/server"))[1]["stopped"] is True


async def test_named_servers(site: Site, call: Program) -> None:
    assert (await call("POST", "/users/ann/servers/big", {"user_options": OPTIONS, "display_name": "x"}))[0] == 202
    assert ("ann", "big") in site.hub.rows
    assert (await call("DELETE", "/users/ann/servers/nix"))[0] == 404
    assert (await call("DELETE", "/users/ann/server"))[0] == 204
    assert (await call("POST", "/users/ann/servers/-bad"))[0] == 400
    assert (await call("DELETE", "/users/ann/server", {"remove": True}))[0] == 400


async def test_nothing_said_is_as_last_time(site: Site, call: Program) -> None:
    site.hub.put("ann", options={"cores": 7, "environment": "2025.2", "walltime": 3600}, **FAILED)
    assert (await call("POST", "/users/ann/server"))[0] == 202
    assert site.hub.rows["ann", ""].options["cores"] == 7
    assert site.hub.rows["ann", ""].options["environment"] == "2025.2"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "JSON object"),
        (b"[" * 60000, "not JSON"),
        ({"user_options": [1]}, "JSON object"),
        ({"profile": "nix"}, "no profile"),
        ({"profile": 1}, "name of a profile"),
        ({"profile": "lab", "colour": "red"}, "no such field"),
        ({"profile": "lab", "cores": ["1"]}, "cores: a text"),
        ({**OPTIONS, "cores": 65}, "At most 64"),
    ],
)
async def test_bad_options(call: Program, body: object, words: str) -> None:
    code, answer = await call("POST", "/users/ann/server", body)
    assert code in {400, 404}
    assert words in answer["message"]


async def test_form_errors_are_listed(call: Program) -> None:
    _, answer = await call("POST", "/users/ann/server", {**OPTIONS, "cores": 65, "walltime": "x"})
    assert set(answer["fields"]) == {"cores", "walltime"}


@pytest.mark.parametrize(
    ("error", "code"), [(SubmitRejected("bad account"), 400), (TooMany("three"), 429), (Unreachable("silent"), 503)]
)
async def test_refusals(site: Site, call: Program, error: Any, code: int) -> None:
    site.hub.refuse = error
    got, answer = await call("POST", "/users/ann/server", OPTIONS)
    assert (got, answer["message"]) == (code, str(error))


async def test_others_are_not_there(site: Site, call: Program) -> None:
    site.hub.put("bob", phase=Phase.READY)
    for method in ("GET", "POST", "DELETE"):
        assert (await call(method, "/users/bob/server"))[0] == 404
    assert (await call("GET", "/users/bob/server/progress"))[0] == 404
    root = Program(site, await token_of(await site.signed_in("root")))
    assert (await root("GET", "/users/bob/server"))[0] == 200
    assert (await root("POST", "/users/bob/servers/x"))[0] == 403
    assert (await root("DELETE", "/users/bob/server"))[0] == 202


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[5:]) for line in data.decode().split("\n") if line.startswith("data:")]


async def test_progress_tells_every_step_and_ends_with_the_address(site: Site, call: Program) -> None:
    site.hub.put("ann", phase=Phase.REQUESTED)
    asked = asyncio.ensure_future(call("GET", "/users/ann/server/progress"))
    while not site.hub.watchers:
        await asyncio.sleep(0)
    site.hub.move("ann", phase=Phase.QUEUED, job_id=JobId("4711"), report=PENDING)
    await asyncio.sleep(0.02)
    site.hub.move("ann", phase=Phase.STARTING, host="n1")
    await asyncio.sleep(0.02)
    site.hub.move("ann", phase=Phase.READY)
    code, data = await asked
    assert code == 200
    found = events(data)
    assert [event["phase"] for event in found] == ["requested", "queued", "starting", "ready"]
    assert [event["progress"] for event in found] == [0, 20, 60, 100]
    assert found[1]["detail"] == "Resources"
    assert found[1]["estimated_start"] == "2026-03-01T09:50:00Z"
    assert found[2]["node"] == "n1"
    assert found[3]["ready"] is True
    assert found[3]["url"] == "/user/ann/"
    assert not any("ready" in event or "failed" in event for event in found[:3])
    assert site.hub.watchers == 0


async def test_progress_of_what_is_there_already(site: Site, call: Program) -> None:
    assert (await call("GET", "/users/ann/server/progress"))[0] == 404
    site.hub.put("ann", phase=Phase.READY)
    assert [event["ready"] for event in events((await call("GET", "/users/ann/server/progress"))[1])] == [True]
    site.hub.move("ann", log_tail="the end", **FAILED)
    (event,) = events((await call("GET", "/users/ann/server/progress"))[1])
    assert (event["failed"], event["progress"], event["log_tail"], event["exit_code"]) == (True, 100, "the end", 3)
    site.hub.move("ann", outcome=Outcome.STOPPED)
    assert (await call("GET", "/users/ann/server/progress"))[0] == 400


async def raw_stream(site: Site, browser: Browser, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    cookie = "; ".join(f"{name}={value}" for (name, _), value in browser.cookies.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: hub\r\nCookie: {cookie}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head, head
    assert b"text/event-stream" in head
    assert b"no-cache" in head
    return reader, writer


async def test_a_stream_keeps_alive_and_ends_when_the_browser_leaves(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.QUEUED)
    reader, writer = await raw_stream(site, ann, "/hub/api/users/ann/server/progress")
    await reader.readuntil(b"data: ")
    await reader.readuntil(b"\r\n1\r\n\n\r\n")  # one chunk of one line break
    assert site.hub.watchers == 1
    writer.close()
    async with asyncio.timeout(60):
        while site.hub.watchers:
            await asyncio.sleep(0.01)


async def test_a_stream_ends_with_its_session(site: Site, ann: Browser) -> None:
    reader, writer = await raw_stream(site, ann, "/hub/api/events")
    await ann.get("/hub/home")
    await ann.post("/hub/logout")
    async with asyncio.timeout(60):
        await reader.readuntil(b"\r\n0\r\n\r\n")  # the last chunk
    writer.close()


async def test_home_hears_of_changes_only(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.QUEUED)
    reader, writer = await raw_stream(site, ann, "/hub/api/events")
    async with asyncio.timeout(60):
        await reader.readuntil(b"data: ")
        first = json.loads(await reader.readline())
        site.hub.move("ann", phase=Phase.STARTING, host="n1")
        await reader.readuntil(b"data: ")
        second = json.loads(await reader.readline())
    assert [server["phase"] for server in first["servers"]] == ["queued"]
    assert [server["node"] for server in second["servers"]] == ["n1"]
    assert first["state"] != second["state"]
    await ann.get("/hub/home")
    ann.has(f'data-state="{second["state"]}"')
    writer.close()


async def test_streams_are_limited(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.QUEUED)
    opened = [await raw_stream(site, ann, "/hub/api/events") for _ in range(20)]
    answer = await ann.get("/hub/api/events")
    assert answer.code == 429
    assert "Retry-After" in answer.headers
    for _, writer in opened:
        writer.close()
    async with asyncio.timeout(60):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            cookie = "; ".join(f"{name}={value}" for (name, _), value in ann.cookies.items())
            writer.write(f"GET /hub/api/events HTTP/1.1\r\nHost: hub\r\nCookie: {cookie}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            if b"200 OK" in head:
                break


async def test_a_jobs_word(site: Site) -> None:
    job = Program(site, {"Authorization": "token right"})
    assert await job("POST", "/jobs/abcdefghijkl/connection", b'{"port": 1}') == (204, b"")
    assert site.hub.calls == [("connected", "abcdefghijkl", "right", b'{"port": 1}')]
    assert (await job("POST", "/jobs/abcdefghijkl/connection", b"x" * 9000))[0] == 413
    assert (await job("POST", "/jobs/abcdefghijkl/connection", b"", Authorization="token wrong"))[0] == 403
    assert (await job("POST", "/jobs/abcdefghijkl/connection", b"", Authorization=""))[0] == 403


async def test_health(site: Site) -> None:
    answer = await site.browser().get("/hub/health")
    assert (answer.code, json.loads(answer.body)["parts"]["proxy"]) == (200, "ok")
    site.hub.parts["proxy"] = "no answer from 10.1.2.3"
    answer = await site.browser().get("/hub/health")
    assert (answer.code, json.loads(answer.body)["parts"]["proxy"]) == (503, "no answer from 10.1.2.3")
    answer = await site.browser().get("/hub/health", X_Forwarded_For="192.0.2.1")
    assert json.loads(answer.body)["parts"] == {"database": "ok", "proxy": "not well"}


async def test_metrics(site: Site, call: Program) -> None:
    away = {"X-Forwarded-For": "192.0.2.1"}
    answer = await site.browser().get("/hub/metrics")
    assert answer.code == 200
    assert b"batchhub_things_total" in answer.body
    assert (await site.browser().ask("GET", "/hub/metrics", headers=away)).code == 403
    assert (await site.browser().ask("GET", "/hub/metrics", headers={**away, **call.headers})).code == 403
    root = await token_of(await site.signed_in("root"))
    assert (await site.browser().ask("GET", "/hub/metrics", headers={**away, **root})).code == 200


# What is at a server's address while nothing runs there


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/kernels", {}),
        ("GET", "/lab", {"Sec-Fetch-Mode": "cors"}),
        ("GET", "/lab", {"X-Requested-With": "XMLHttpRequest"}),
        ("GET", "/x", {"Upgrade": "websocket", "Connection": "Upgrade"}),
        ("GET", "/x", {"Accept": "application/json"}),
        ("POST", "/lab", {}),
        ("DELETE", "/lab", {}),
        ("PUT", "/files/x", {}),
    ],
)
async def test_programs_get_424_whoever_asks(
    site: Site, ann: Browser, method: str, path: str, headers: dict[str, str]
) -> None:
    for browser in (site.browser(), ann):
        for prefix in ("/user/ann", "/hub/user/ann"):
            answer = await browser.ask(method, prefix + path, headers=headers)
            assert answer.code == 424
            assert json.loads(answer.body)["status"] == 424


async def test_people_get_a_page_where_the_session_is_known(site: Site, ann: Browser) -> None:
    answer = await ann.get("/user/ann/lab/tree?x=1")
    assert (answer.code, answer.headers["Location"]) == (302, "/hub/user/ann/lab/tree?x=1")
    assert (await ann.get(answer.headers["Location"])).code == 424
    ann.has("Your server is not running", "It was not started yet.", 'href="/hub/spawn/ann"')
    site.hub.put("ann", words="slurmstepd: oom", **FAILED)
    site.hub.put("ann", "big", phase=Phase.QUEUED)
    await ann.get("/hub/user/ann/lab")
    ann.has("Failed", "slurmstepd: oom", "Details and log")
    await ann.get("/hub/user/ann/big/lab")
    ann.has("“big”", "Watch it start")


async def test_others_learn_nothing(site: Site, ann: Browser) -> None:
    site.hub.put("bob", words="hush", **FAILED)
    found = []
    for name in ("bob", "nobody"):
        assert (await ann.get(f"/hub/user/{name}/lab")).code == 403
        found.append(re.sub(r'(content|value)="[^"]{86}"', "", ann.text))
    assert found[0] == found[1]
    answer = await site.browser().get("/hub/user/bob/lab")
    assert answer.headers["Location"] == "/hub/login?next=%2Fhub%2Fuser%2Fbob%2Flab"


async def test_user_redirect(ann: Browser) -> None:
    answer = await ann.get("/hub/user-redirect/lab/tree/a%20b?reset")
    assert answer.headers["Location"] == "/user/ann/lab/tree/a%20b?reset"


# Tickets


async def test_a_ticket_for_ones_own_path(site: Site, ann: Browser) -> None:
    answer = await ann.get("/hub/access?next=/user/ann/lab%3Fx%3D1")
    assert (answer.code, answer.headers["Location"]) == (302, "/user/ann/lab?x=1")
    (line,) = [line for line in answer.headers.get_list("Set-Cookie") if line.startswith("batchhub-access=")]
    assert "Path=/user/ann/" in line
    assert "HttpOnly" in line
    assert "SameSite=Lax" in line
    ticket = tickets.verify([KEY], ann.cookies["batchhub-access", "/user/ann/"], site.clock())
    assert (ticket.user, ticket.path, ticket.issued) == ("ann", "/user/ann/", START)
    assert ticket.expires == START + timedelta(hours=12)
    assert ticket.session in site.store.sessions
    assert ticket.absolute == site.store.sessions[ticket.session].absolute


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/user/bob/lab", 403),
        ("/user/anna/", 403),
        ("/user/ann/../bob/", 400),
        ("/user/ann%2f..%2fbob/", 400),
        ("/hub/home", 400),
        ("//evil.example/user/ann/", 400),
        ("https://evil.example/user/ann/", 400),
        ("", 400),
        ("/user/ann", 302),
        ("/user/%61nn/", 302),
    ],
)
async def test_tickets_are_for_nothing_else(ann: Browser, address: str, code: int) -> None:
    answer = await ann.get("/hub/access?next=" + address.replace("%", "%25"))
    assert answer.code == code
    if code != 302:
        assert not any(name == "batchhub-access" for name, _ in ann.cookies)


async def test_strangers_sign_in_before_they_get_a_ticket(site: Site) -> None:
    answer = await site.browser().get("/hub/access?next=/user/ann/lab")
    assert answer.headers["Location"] == "/hub/login?next=%2Fhub%2Faccess%3Fnext%3D%2Fuser%2Fann%2Flab"


async def test_a_refused_ticket_does_not_make_a_circle(ann: Browser) -> None:
    codes = [(await ann.get("/hub/access?next=/user/ann/")).code for _ in range(6)]
    assert codes == [302, 302, 302, 302, 302, 500]
    ann.has("does not take the ticket")


async def test_a_stopping_server_is_said_so(site: Site, call: Program) -> None:
    site.hub.put("ann", phase=Phase.READY, want=Want.DOWN)
    assert (await call("GET", "/users/ann/server"))[1]["pending"] == "stop"
