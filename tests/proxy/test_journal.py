"""What the proxy remembers: every change survives, however the process ends, and the file does not grow for ever."""

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.core.errors import BadInput, ConfigError
from batchhub.proxy.book import (
    Activity,
    AddRoute,
    Book,
    Change,
    DropOffer,
    DropRoute,
    EndSession,
    EndToken,
    MakeOffer,
    Seen,
    Use,
    end_token,
    make_offer,
    read_change,
    read_route,
    write_change,
)
from batchhub.proxy.journal import Journal
from tests.proxy.harness import HOUR, NOW, Clock

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA" + "I" + "A" * 43
DIGEST = "0123456789abcdef" * 4

CHANGES: list[Change] = [
    AddRoute(read_route("/user/a b", {"target": "http://127.0.0.1:1", "owner": "a", "x": [1]}, NOW)),
    AddRoute(read_route("/gone", {"target": "http://127.0.0.1:2"}, NOW)),
    EndSession("s1", NOW + HOUR),
    EndToken(DIGEST, NOW + HOUR),
    MakeOffer("job1", KEY),
    MakeOffer("job2", KEY),
    Seen({"/user/a b": NOW - HOUR, "/nowhere": NOW}, {"/user/a b": NOW - 2 * HOUR}),
    DropRoute("/gone"),
    DropOffer("job2"),
]


def opened(path: Path) -> tuple[Book, Journal]:
    book = Book(Clock())
    journal = Journal(path, book, Clock())
    journal.load()
    return book, journal


async def written(path: Path, changes: list[Change] = CHANGES) -> tuple[Book, Journal]:
    """Each change with a write of its own."""
    book, journal = opened(path)
    for change in changes:
        book.apply(change)
        journal.append(change)
        await journal.flush()
    return book, journal


def content(book: Book) -> list[object]:
    return [write_change(change) for change in book.changes()]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_a_change_is_read_as_it_was_written(change: Change) -> None:
    text = json.dumps(write_change(change))
    read = read_change(json.loads(text), NOW)
    assert type(read) is type(change)
    assert read is not None
    assert json.dumps(write_change(read)) == text


def test_a_change_of_a_newer_version_is_passed_over() -> None:
    assert read_change({"do": "something new", "x": 1}, NOW) is None
    with pytest.raises(KeyError):
        read_change({}, NOW)


def test_no_secret_is_printed() -> None:
    route = AddRoute(read_route("/x", {"target": "http://x", "authorization": "token s3cret"}, NOW))
    assert "s3cret" not in repr(route)
    assert "AAAA" not in repr(MakeOffer("job", KEY))


async def test_everything_survives(tmp_path: Path) -> None:
    path = tmp_path / "state"
    book, _ = await written(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again, _ = opened(path)
    assert content(again) == content(book)
    assert [change["do"] for change in content(again)] == ["route", "session", "token", "offer"]


@pytest.mark.parametrize("lost", [1, 5, 20])
async def test_a_torn_last_line_is_dropped(tmp_path: Path, lost: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state"
    await written(path)
    before, _ = await written(tmp_path / "other", CHANGES[:-1])
    path.write_bytes(path.read_bytes()[:-lost])
    book, journal = opened(path)
    assert content(book) == content(before)
    assert "middle of a change" in caplog.text
    # The next change is not appended to half a line.
    book.apply(CHANGES[-1])
    journal.append(CHANGES[-1])
    await journal.flush()
    assert content(opened(path)[0]) == content(book)


async def test_a_bad_line_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state"
    book, _ = await written(path)
    lines = path.read_bytes().split(b"\n")
    damaged = b"\n".join([lines[0], b'{"do":"route","path":"/y","data":{}}', b"\xff", *lines[1:]])
    path.write_bytes(damaged)
    assert content(opened(path)[0]) == content(book)
    assert "line 2" in caplog.text
    assert (tmp_path / "state.unreadable").read_bytes() == damaged


async def test_the_first_format_is_read(tmp_path: Path) -> None:
    route = {
        "path": "/user/a",
        "data": {"target": "http://x", "owner": "a"},
        "last_activity": "2026-05-04T11:00:00.000Z",
    }
    old = {
        "format": 1,
        "routes": [route],
        "revoked": {"s": "2026-05-04T13:00:00.000Z", "t": "2026-05-04T11:00:00.000Z"},
    }
    path = tmp_path / "state"
    path.write_text(json.dumps(old))
    book, journal = opened(path)
    assert book.revoked == {"s": NOW + HOUR}, "what is over is forgotten"
    found = book.routes.get("/user/a")
    assert found is not None
    assert found.last_activity == NOW - HOUR
    await journal.flush(whole=True)
    assert json.loads(path.read_bytes().splitlines()[0]) == {"format": 2}
    assert content(opened(path)[0]) == content(book)


async def test_the_file_is_written_anew_when_it_has_outgrown_its_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    book, journal = opened(path)
    longest = 0
    for number in range(60):
        for turn in range(50):
            change = AddRoute(read_route("/x", {"target": f"http://x:{1 + turn}", "n": number}, NOW))
            book.apply(change)
            journal.append(change)
        await journal.flush()
        longest = max(longest, path.read_bytes().count(b"\n"))
    assert 1000 < longest < 1100
    assert content(opened(path)[0]) == content(book)


async def test_what_could_not_be_written_is_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "directory" / "state"
    book, journal = opened(path)
    tries = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        tries.release()
        await asyncio.sleep(0.01)

    keeper = asyncio.ensure_future(journal.keep(sleep))
    book.apply(CHANGES[0])
    journal.append(CHANGES[0])
    with pytest.raises(OSError, match="No such file"):
        await journal.flush()
    for _ in range(12):
        await tries.acquire()
    assert caplog.text.count(f"cannot be saved in {path}") == 1, "once a minute"
    path.parent.mkdir()
    for _ in range(500):
        if path.exists():
            break
        await asyncio.sleep(0.01)
    for _ in range(500):
        if "is saved again" in caplog.text:
            break
        await asyncio.sleep(0.01)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert "is saved again" in caplog.text
    assert content(opened(path)[0]) == content(book)


async def test_what_is_saved_of_a_damaged_file_is_in_a_file_again_at_once(tmp_path: Path) -> None:
    path = tmp_path / "routes"
    book, _ = await written(path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:-1], b"{damaged", b""]))
    _, journal = opened(path)
    assert not path.exists()
    keeper = asyncio.ensure_future(journal.keep())
    for _ in range(500):
        if path.exists():
            break
        await asyncio.sleep(0.01)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert content(opened(path)[0]) == content(book)


async def test_what_others_could_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "routes"
    await written(path)
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="can be written by others"):
        opened(path)


async def test_a_file_that_waits_in_our_ones_place_reads_no_secret(tmp_path: Path) -> None:
    """Somebody who guesses the name has it ready, open, and readable."""
    path = tmp_path / "routes"
    planted = tmp_path / f".routes.{os.getpid()}"
    planted.write_text("")
    planted.chmod(0o666)
    with planted.open() as spy:
        await written(path)
        assert spy.read() == ""
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_proxies_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "routes"
    first, second = (Journal(path, Book(Clock()), Clock()) for _ in range(2))
    first.claim()
    with pytest.raises(ConfigError, match="Another proxy uses the state file"):
        second.claim()
    assert (tmp_path / "routes.lock").stat().st_mode & 0o777 == 0o600
    for journal in (first, second):
        os.close(journal._lock)


async def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    book = Book(Clock())
    journal = Journal(None, book, Clock())
    journal.load()
    journal.append(CHANGES[0])
    await journal.flush(whole=True)
    assert not list(tmp_path.iterdir())


def test_a_route_posted_again_is_the_same_object() -> None:
    """Open connections tell the object of their use; a changed route is another one."""
    book = Book(Clock())
    fields = {"target": "http://x"}
    book.add(read_route("/x", fields, NOW))
    first = book.routes.get("/x")
    assert first is not None
    first.last_activity = NOW + HOUR
    book.add(read_route("/x/", dict(fields), NOW))
    assert book.routes.get("/x") is first
    assert first.last_activity == NOW + HOUR
    book.add(read_route("/x", {"target": "http://y"}, NOW))
    assert book.routes.get("/x") is not first


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ({"target": "http://x", "owner": "ann"}, True),
        ({"target": "http://y", "server_id": "s1"}, True),
        ({"target": "http://y", "server_id": "s2"}, False),
        ({"target": "http://y"}, False),
    ],
)
def test_what_is_open_keeps_a_route_in_use_that_took_the_place_of_its_own(
    fields: dict[str, str], *, shared: bool
) -> None:
    book = Book(Clock())
    former = read_route("/x", {"target": "http://x", "server_id": "s1"}, NOW - HOUR)
    book.add(former)
    book.add(read_route("/x", fields, NOW))
    route = book.routes.get("/x")
    assert route is not None
    assert route is not former
    assert route.last_activity == NOW, "that it was posted counts as use"
    former.use.at = NOW + HOUR
    assert route.last_activity == (NOW + HOUR if shared else NOW)


def test_activity_is_told_once() -> None:
    book = Book(Clock())
    for name in ("/a", "/b"):
        book.add(read_route(name, {"target": "http://x"}, NOW))
    activity = Activity(book)
    assert activity.news().at == {"/a": NOW, "/b": NOW}
    assert activity.news().at == {}
    route = book.routes.get("/b")
    assert route is not None
    route.last_activity = NOW + HOUR
    assert activity.news().at == {"/b": NOW + HOUR}
    book.routes.delete("/b")
    activity.news()
    book.add(read_route("/b", {"target": "http://x"}, NOW + HOUR))
    assert activity.news().at == {"/b": NOW + HOUR}, "a route of the same name is another one"
    route = book.routes.get("/b")
    assert route is not None
    activity.news()
    route.use.acted = NOW + 2 * HOUR
    assert activity.news().acted == {"/b": NOW + 2 * HOUR}
    # Going back in time is no news: reports may overtake each other.
    book.apply(Seen({"/b": NOW}, {"/b": NOW}))
    assert route.use == Use(NOW + HOUR, NOW + 2 * HOUR)


def test_what_is_long_over_is_forgotten() -> None:
    clock = Clock()
    book = Book(clock)
    book.apply(EndSession("s", NOW + HOUR))
    book.apply(EndSession("s", NOW + timedelta(minutes=1)))
    book.apply(EndToken(DIGEST, NOW + 2 * HOUR))
    clock.now += HOUR
    book.forget_old()
    assert (book.revoked, list(book.ended_tokens)) == ({}, [DIGEST])


@pytest.mark.parametrize(
    "key",
    [
        None,
        3,
        "",
        "ssh-ed25519",
        KEY[:-1],
        KEY[:-4],
        KEY + "AAAA",
        KEY.replace("ssh-ed25519 ", "ssh-rsa "),
        KEY.replace("AAAAC3", "AAAAB3"),
        "command=x " + KEY,
        KEY + " " + "x" * 2000,
    ],
)
def test_what_is_no_key(key: object) -> None:
    with pytest.raises(BadInput, match="key"):
        make_offer("job", key)


def test_keys_and_tokens() -> None:
    assert make_offer("job", f"{KEY} somebody@somewhere\n").key == KEY
    for offer in ("", "a/b", "..", "x" * 65, "ä"):
        with pytest.raises(BadInput, match="offer"):
            make_offer(offer, KEY)
    assert end_token(DIGEST, NOW).digest == DIGEST
    for digest in (None, "", DIGEST[1:], DIGEST.upper(), DIGEST + "\n"):
        with pytest.raises(BadInput, match="SHA-256"):
            end_token(digest, NOW)
