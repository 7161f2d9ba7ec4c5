"""One canonical path is both matched and forwarded: no server that decodes it naively reads another route in it."""

import asyncio
import posixpath
import re
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import unquote_to_bytes

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.proxy.harness import App, World, parse, read_request, running, world

ROUTES = ("/", "/user", "/user/alice", "/user/alice/lab", "/user/bob", "/user/a b", "/user/é@x", "/hub")
# Between blanks; a blank itself and what else is refused outright are added below.
WORDS = r"""
/ / / / /user/ /user/alice/ /user/bob/ user alice bob lab hub a%20b %C3%A9@x %c3%a9%40x x 1 - _
..  .  %2e  %2E%2e  .%2e  /../  /./  //  %2f  %2F  %2F..%2F  ..%2f  %5c  %5C..  \  ..\
;  ;x  ..;  ..;/  .;a  %3b  %61lice  %62ob  %75ser  ALICE  %25  %252e  %252f  %2  %  %zz  %00
é  ÿ  %ff  %e9  %20  +  ~  %7e  [  {  |  ^  `  *  '  (  @  :  =  &  $  ,  "
?x=/../user/bob/  ?  ??/user/bob  #  #/user/bob
"""
PIECES = st.sampled_from([*WORDS.split(), " ", "\t", "\x7f"])


def best(parts: list[str]) -> str:
    """The longest of the routes that a path of these decoded segments lies below."""
    return max(
        (route for route in ROUTES if route == "/" or parts[: route.count("/") + 1] == route.split("/")), key=len
    )


def naive(target: str) -> set[str]:
    """The routes that servers of several habits would see in a request's target."""
    path = target.partition("?")[0]
    decoded = unquote_to_bytes(path).decode()
    slashes = decoded.replace("\\", "/")
    plain = re.sub(r";[^/]*", "", slashes)
    readings = {decoded, slashes, plain, re.sub(r"/+", "/", decoded)}
    readings |= {"/" + posixpath.normpath(reading).lstrip("/") for reading in readings}
    return {best(reading.split("/")) for reading in readings}


async def send(w: World, raw: bytes) -> tuple[int, str, str]:
    """Status; which route's application was asked, and for what target."""
    answer = await w.raw(b"GET " + raw + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status, _, body = parse(answer)
    route, _, target = body.decode("utf-8", "replace").partition(" -> ") if status == 200 else ("", "", "")
    return status, route, target


async def start(stack: AsyncExitStack, tmp_path: Path) -> World:
    w = await stack.enter_async_context(world(tmp_path))
    for route in ROUTES:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: str = route) -> None:
            while True:
                request = await read_request(reader)
                body = f"{route} -> {request.target}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        app = await stack.enter_async_context(running(App(serve=serve)))
        w.route(route, app.port)
    return w


def test_the_route_that_is_chosen_is_the_route_that_is_seen(tmp_path: Path) -> None:
    accepted = []

    def check(w: World, runner: asyncio.Runner) -> None:
        @example(["user", "/", "alice", "/", "..", "/", "bob"])
        @example(["user/alice/", "..%2f", "bob/"])
        @example(["user/alice/", "..;/", "bob/"])
        @example(["user", "%2F", "bob"])
        @example(["user//bob"])
        @example(["user/bob%2f..%2falice"])
        @example(["user/alice/lab/", "%2e%2e", "/x"])
        @example(["user/a%20b/x"])
        @example(["user/%C3%A9%40x/y"])
        @settings(max_examples=500, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(PIECES, max_size=9))
        def property_holds(pieces: list[str]) -> None:
            raw = b"/" + "".join(pieces).encode()
            status, route, target = runner.run(send(w, raw))
            assert status in {200, 400}
            if status == 400:
                return
            accepted.append(target)
            path, mark, query = target.partition("?")
            assert target.isascii()
            assert target.isprintable()
            assert best([unquote_to_bytes(part).decode() for part in path.split("/")]) == route
            assert re.search(r"//|/\.{1,2}(?=/|;|$)|[\\#]", path) is None
            escaped_slash = "%2F" in path or "%5C" in path
            for seen in naive(target):
                # An escaped slash separates nothing here. Who decodes it sees something below the route that was asked, never beside it.
                assert seen == route or (escaped_slash and (route == "/" or seen.startswith(route + "/")))
            _, mark_before, query_before = raw.decode("latin-1").partition("?")
            assert (mark, query) == (mark_before, query_before), "the query is untouched"
            assert runner.run(send(w, target.encode())) == (200, route, target), "and the form is final"

        property_holds()

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            check(runner.run(start(stack, tmp_path)), runner)
        finally:
            runner.run(stack.aclose())
    assert len(accepted) > 50, "most of what is tried is not refused"
