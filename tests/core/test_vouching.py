"""The proxy's sealed word."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.vouching import LIFE, LIMIT, vouch, vouched
from tests.store.conftest import NOW as LATER

NOW = LATER.replace(microsecond=0)
KEY = bytes(range(32))
SAID = {"remote-user": "ren\u00e9"}


def test_only_with_its_key_and_in_time() -> None:
    sealed = vouch(KEY, SAID, NOW)
    assert vouched(KEY, sealed, NOW) == SAID
    assert vouched(KEY, sealed, NOW + LIFE) == SAID
    assert vouched(bytes(32), sealed, NOW) == {}
    for off in (LIFE, -LIFE):
        assert vouched(KEY, sealed, NOW + off + timedelta(seconds=1 if off > timedelta() else -1)) == {}


@given(st.text(max_size=200), st.integers(0, 100))
def test_what_was_not_sealed_is_nothing(text: str, place: int) -> None:
    assert vouched(KEY, text, NOW) == {}
    sealed = vouch(KEY, SAID, NOW)
    place %= len(sealed)
    changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
    assert vouched(KEY, changed, NOW) == {}


def test_bounded() -> None:
    assert vouch(KEY, {"remote-user": "x" * LIMIT}, NOW) == ""
