"""Form tokens."""

from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth.xsrf import Xsrf, new_anonymous, read_anonymous

xsrf = Xsrf(b"k" * 32)


def test_bound_and_masked() -> None:
    one, two = xsrf.token("s1"), xsrf.token("s1")
    assert one != two
    assert xsrf.check("s1", one)
    assert xsrf.check("s1", two)
    assert not xsrf.check("s2", one)
    assert not Xsrf(b"x" * 32).check("s1", one)


def test_nothing_is_bound_to_nothing() -> None:
    assert not xsrf.check("", xsrf.token(""))


@given(st.text(max_size=120))
def test_nonsense(text) -> None:
    assert not xsrf.check("s1", text)
    assert read_anonymous(text) is None or len(text) == 43


def test_every_character_counts() -> None:
    token = xsrf.token("s1")
    for place in range(85):  # the last one holds unused bits
        other = "A" if token[place] != "A" else "B"
        assert not xsrf.check("s1", token[:place] + other + token[place + 1 :])
    assert not xsrf.check("s1", token + "\n")


def test_anonymous() -> None:
    value = new_anonymous()
    assert read_anonymous(value) == value
    assert read_anonymous(value + "x") is None
    assert value != new_anonymous()
