"""What is open by which right, and when it is closed."""

from datetime import timedelta

from batchhub.core.errors import Unreachable
from batchhub.proxy.grants import AGAIN, Bearer, Grants, by_token
from batchhub.proxy.tokens import digest_of
from tests.proxy.harness import HOUR, NOW


class Open:
    """Something open."""

    def __init__(self, grants: Grants) -> None:
        self.grants = grants
        self.right = ""
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1
        self.grants.leave(self.right, self)


def by_session(grants: Grants, session: str, until: timedelta = HOUR) -> Open:
    made = Open(grants)
    made.right = session
    grants.join(session, made, NOW + until)
    return made


def by_bearer(grants: Grants, token: str, path: str = "/user/alice") -> Open:
    made = Open(grants)
    made.right = grants.join_bearer(Bearer(token, path, "alice"), made, NOW)
    return made


def test_the_end_of_a_right_closes_what_it_opened_and_nothing_else() -> None:
    grants = Grants()
    one, two, other, token = (by_session(grants, name) for name in ("s1", "s1", "s2", digest_of("t")))
    bearer = by_bearer(grants, "t")
    grants.cut("s1")
    grants.cut("unknown")
    assert [made.cuts for made in (one, two, other, token, bearer)] == [1, 1, 0, 0, 0]
    grants.cut(by_token(digest_of("t")))
    assert (token.cuts, bearer.cuts) == (0, 1), "a session that is called like a token's hash is another right"
    assert len(grants) == 2


def test_nothing_is_kept_of_what_is_closed() -> None:
    grants = Grants()
    one, two, bearer = by_session(grants, "s1"), by_session(grants, "s1"), by_bearer(grants, "t")
    for made in (one, one, two, bearer):
        grants.leave(made.right, made)
    assert len(grants) == 0
    assert grants.review(NOW + 9 * HOUR) == []
    assert [made.cuts for made in (one, two, bearer)] == [0, 0, 0]


def test_a_session_has_an_end() -> None:
    grants = Grants()
    short, long = by_session(grants, "s1", HOUR), by_session(grants, "s2", 2 * HOUR)
    assert grants.review(NOW + HOUR - timedelta(seconds=1)) == []
    assert (short.cuts, long.cuts) == (0, 0)
    grants.review(NOW + HOUR)
    assert (short.cuts, long.cuts) == (1, 0)


async def test_the_hub_is_asked_again_about_tokens_with_something_open() -> None:
    grants = Grants()
    good, bad = by_bearer(grants, "good"), by_bearer(grants, "bad")
    both = by_bearer(grants, "good", "/user/alice/lab")
    asked: list[tuple[str, str]] = []

    async def ask(token: str, path: str) -> str | None:
        asked.append((token, path))
        return "alice" if token == "good" and path == "/user/alice" else None

    assert grants.review(NOW + AGAIN - timedelta(seconds=1)) == []
    due = grants.review(NOW + AGAIN)
    assert sorted(due) == sorted({good.right, bad.right})
    assert grants.review(NOW + AGAIN) == [], "once, until it is due again"
    for right in due:
        await grants.ask_again(right, ask)
    assert sorted(asked) == [("bad", "/user/alice"), ("good", "/user/alice"), ("good", "/user/alice/lab")]
    assert [made.cuts for made in (good, both, bad)] == [0, 1, 1]
    assert grants.review(NOW + 2 * AGAIN) == [good.right]


async def test_a_hub_that_does_not_answer_closes_nothing() -> None:
    grants = Grants()
    made = by_bearer(grants, "t")

    async def ask(token: str, path: str) -> str | None:
        raise Unreachable("The hub does not answer.")

    await grants.ask_again(made.right, ask)
    await grants.ask_again("token:gone", ask)
    assert made.cuts == 0


def test_a_bearer_does_not_print_its_token() -> None:
    assert "s3cret" not in repr(Bearer("s3cret", "/x", "alice"))
