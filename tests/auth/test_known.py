"""A browser is known to be one account's, for a while, and nobody makes it another's."""

from batchhub.auth.known import LIFE, KnownBrowsers

KEY = b"k" * 32


def test_of_one_account_for_a_while(clock) -> None:
    browsers = KnownBrowsers(KEY, clock)
    cookie = browsers.seal("Ann")
    name = browsers.read(cookie, "ann")
    assert len(name) == 22
    assert browsers.read(browsers.seal("ann"), "ann") not in {"", name}, "each its own"
    assert browsers.read(cookie, "bob") == ""
    assert KnownBrowsers(b"x" * 32, clock).read(cookie, "ann") == ""
    clock.now += LIFE
    assert browsers.read(cookie, "ann") == ""


def test_made_up_ones(clock) -> None:
    browsers = KnownBrowsers(KEY, clock)
    one, name, until, mac = browsers.seal("ann").split(".")
    longer = f"{int(until) + 1}"
    # A name of 16 bytes ends with A, Q, g or w.
    odd = ["", "x", f"{one}.{name}.{longer}.{mac}", f"{one}.{name[:-1]}B.{until}.{mac}", f"2.{name}.{until}.{mac}"]
    odd += [f"{one}.{name}.{until}.{mac}\n", f"{one}.{name}.{until}.{'0' * 64}", f"{one}.{name}.{until}.{mac}" * 9]
    # What stands before the account cannot be moved into it.
    odd.append(f"{one}.{name}.{until[:-1]}.{mac}")
    assert {browsers.read(text, account) for text in odd for account in ("ann", f"{until[-1]}.ann")} == {""}
