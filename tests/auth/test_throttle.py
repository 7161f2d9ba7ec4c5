"""Guessing is slow; people are not kept out."""

from batchhub.auth.throttle import Rate, Throttle, ThrottleSettings

SETTINGS = ThrottleSettings(account=Rate(3, 10.0), address=Rate(5, 2.0), entries=100)
HERE = "192.0.2.1"


def test_an_account(clock) -> None:
    throttle = Throttle(SETTINGS)
    for number in range(3):
        assert throttle.attempt("ann", f"192.0.2.{number}", clock.now) == 0
    assert throttle.attempt("ann", HERE, clock.now) == 10
    assert throttle.attempt("ANN", HERE, clock.later(seconds=4)) == 6, "however it is spelt"
    assert throttle.attempt("bob", HERE, clock.now) == 0
    assert throttle.attempt("ann", HERE, clock.later(seconds=6)) == 0
    assert throttle.attempt("ann", HERE, clock.now) == 10


def test_spellings_that_a_directory_takes_for_one_name(clock) -> None:
    """RFC 4518 prepares names so, and Active Directory does not look at accents; of one account there are not more guesses for that."""
    throttle = Throttle(SETTINGS)
    spellings = ["ann", "\uff41nn", "A\uff2en ", "a\u0301nn", "\u00e5nn", " a n\u00adn"]
    assert [throttle.attempt(one, f"192.0.2.{number}", clock.now) for number, one in enumerate(spellings)] == [
        0
    ] * 3 + [10] * 3
    assert throttle.attempt("\u0430nn", HERE, clock.now) == 0, "Cyrillic: somebody else"


def test_an_address(clock) -> None:
    throttle = Throttle(SETTINGS)
    for number in range(5):
        assert throttle.attempt(f"user{number}", HERE, clock.now) == 0
    assert throttle.attempt("ann", HERE, clock.now) == 2
    assert throttle.attempt("ann", "192.0.2.2", clock.now) == 0


def test_a_refusal_costs_nothing(clock) -> None:
    throttle = Throttle(SETTINGS)
    for _ in range(3):
        throttle.attempt("ann", HERE, clock.now)
    for _ in range(50):
        assert throttle.attempt("ann", HERE, clock.now) == 10
    assert throttle.attempt("bob", HERE, clock.now) == 0


def test_success_forgives(clock) -> None:
    throttle = Throttle(SETTINGS)
    for _ in range(100):
        assert throttle.attempt("ann", HERE, clock.now) == 0
        throttle.succeeded("ann", HERE, clock.now)
    assert len(throttle) == 0
    throttle.attempt("eve", HERE, clock.now)
    throttle.attempt("eve", HERE, clock.now)
    throttle.attempt("ann", HERE, clock.now)
    throttle.succeeded("ann", HERE, clock.now)
    assert [throttle.attempt(who, HERE, clock.now) for who in "wxyz"] == [0, 0, 0, 2], "only its own attempt comes back"


def test_one_person_has_a_whole_v6_network(clock) -> None:
    throttle = Throttle(SETTINGS)
    answers = [throttle.attempt(f"user{number}", f"2001:db8::{number:x}", clock.now) for number in range(6)]
    assert answers == [0] * 5 + [2]
    assert throttle.attempt("x", "2001:db8:0:1::1", clock.now) == 0
    assert throttle.attempt("x", "fe80::1%eth0", clock.now) == 0
    for number in range(4):
        throttle.attempt(f"user{number}", "::ffff:192.0.2.9", clock.now)
    assert [throttle.attempt("y", "192.0.2.9", clock.now) for _ in range(2)] == [0, 2]


def test_addresses_that_are_none_share(clock) -> None:
    throttle = Throttle(SETTINGS)
    answers = [throttle.attempt(f"user{number}", f"/run/{number}.sock", clock.now) for number in range(6)]
    assert answers == [0] * 5 + [2]


def test_bounded_memory(clock) -> None:
    throttle = Throttle(SETTINGS)
    for number in range(1000):
        throttle.attempt("x" * 100_000 + str(number), f"10.0.{number // 250}.{number % 250}", clock.now)
    assert len(throttle) == 200


def test_a_clock_that_was_set_back(clock) -> None:
    throttle = Throttle(SETTINGS)
    for _ in range(3):
        throttle.attempt("ann", HERE, clock.now)
    assert throttle.attempt("ann", HERE, clock.later(hours=-1)) == 10, "that earns nothing"
    assert throttle.attempt("ann", HERE, clock.later(seconds=10)) == 0, "and nobody waits for the hour to come again"


def test_a_known_browser_is_kept_out_by_nobody_else(clock) -> None:
    throttle = Throttle(SETTINGS)
    for number in range(9):
        throttle.attempt("ann", HERE, clock.now)
        throttle.attempt(f"user{number}", HERE, clock.now)
    assert throttle.attempt("ann", HERE, clock.now) > 0
    assert throttle.attempt("ann", HERE, clock.now, "hers") == 0
    throttle.succeeded("ann", HERE, clock.now, browser="hers")
    guesses = [throttle.attempt("ann", HERE, clock.now, "hers") for _ in range(4)]
    assert guesses == [0, 0, 0, 10], "its own guesses are counted"
    assert throttle.attempt("ann", HERE, clock.now, "her other one") == 0
    assert throttle.attempt("bob", HERE, clock.now) > 0, "the address is given nothing that it did not pay"
