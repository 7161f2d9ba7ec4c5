"""Several ways to sign in: which may stand side by side."""

from importlib.metadata import entry_points
from itertools import permutations

import pytest

from batchhub.auth.base import Authenticator, LoginKind
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.auth.header import HeaderAuthenticator
from batchhub.auth.link import LinkAuthenticator
from batchhub.auth.pam import PAMAuthenticator
from batchhub.auth.ways import check_ways
from batchhub.core.errors import ConfigError


class Closed(Authenticator):
    kind = LoginKind.CLOSED


def test_one_needs_nothing() -> None:
    check_ways({"pam": PAMAuthenticator()}, same_people=False)


@pytest.mark.parametrize(("first", "second"), [("", ""), ("", "x-"), ("x-", "x-"), ("x-", "x-y-")])
def test_names_that_could_meet_are_refused(first: str, second: str) -> None:
    ways = {
        "pam": PAMAuthenticator(username_prefix=first),
        "dictionary": DictionaryAuthenticator(username_prefix=second),
    }
    with pytest.raises(ConfigError, match="username_prefix of its own"):
        check_ways(ways, same_people=False)
    check_ways(ways, same_people=True)


def test_prefixes_keep_people_apart() -> None:
    ways = {"pam": PAMAuthenticator(username_prefix="p-"), "dictionary": DictionaryAuthenticator(username_prefix="d-")}
    check_ways(ways, same_people=False)


def test_a_way_that_lets_nobody_in_does_not_count() -> None:
    check_ways({"null": Closed(), "pam": PAMAuthenticator()}, same_people=False)


def test_two_that_the_page_could_not_tell_apart() -> None:
    with pytest.raises(ConfigError, match="of link and other only one"):
        check_ways({"link": LinkAuthenticator(), "other": LinkAuthenticator()}, same_people=True)


def test_what_is_said_of_one_way_does_not_hold_for_another() -> None:
    """Traitlets give the settings of a class to those made from it."""

    class Guests(PAMAuthenticator):
        pass

    ways = {"pam": PAMAuthenticator(username_prefix="p-"), "guests": Guests(username_prefix="g-")}
    with pytest.raises(
        ConfigError, match=r"Guests is made from PAMAuthenticator, so that all of c\.PAMAuthenticator holds"
    ):
        check_ways(ways, same_people=False)
    offered = [point.load() for point in entry_points(group="batchhub.authenticators")]
    assert len(offered) > 10
    assert [(one, other) for one, other in permutations(offered, 2) if issubclass(one, other)] == []


def test_a_name_is_part_of_addresses() -> None:
    with pytest.raises(ConfigError, match="'Git Hub' cannot name"):
        check_ways({"Git Hub": PAMAuthenticator()}, same_people=False)


@pytest.mark.parametrize("rule", ["allowed_groups", "admin_groups"])
@pytest.mark.parametrize("kind", [DictionaryAuthenticator, LinkAuthenticator, HeaderAuthenticator])
def test_groups_that_nobody_can_be_in(kind, rule: str) -> None:
    with pytest.raises(ConfigError, match="nothing says what groups"):
        check_ways({"one": kind(**{rule: {"hpc"}})}, same_people=False)
    check_ways({"pam": PAMAuthenticator(**{rule: {"hpc"}})}, same_people=False)
    check_ways({"header": HeaderAuthenticator(groups_header="G", **{rule: {"hpc"}})}, same_people=False)
