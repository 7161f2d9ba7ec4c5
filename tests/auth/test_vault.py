"""What is kept of people is opened by its keys, for its owner and purpose, alone."""

import json

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.auth.vault import LIMIT, Vault

OLD, NEW = Fernet.generate_key(), Fernet.generate_key()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
)


@settings(max_examples=25)
@given(value=st.dictionaries(st.text(), JSON, max_size=5), owner=st.text(max_size=20))
def test_what_was_sealed_is_opened(value, owner) -> None:
    vault = Vault([NEW])
    text = vault.seal("auth_state", owner, value)
    assert vault.open("auth_state", owner, text) == json.loads(json.dumps(value))
    assert vault.open("auth_state", owner + "x", text) is None
    assert vault.open("key", owner, text) is None


def test_nothing_of_it_can_be_read() -> None:
    text = Vault([NEW]).seal("auth_state", "ann", {"token": "secret-of-ann"})
    assert "secret" not in text
    assert "ann" not in text


def test_keys_are_changed_without_losing_anything() -> None:
    before = Vault([OLD]).seal("auth_state", "ann", {"a": 1})
    both = Vault([NEW, OLD])
    assert both.open("auth_state", "ann", before) == {"a": 1}
    assert both.stale(before)
    after = both.seal("auth_state", "ann", {"a": 1})
    assert not both.stale(after)
    assert Vault([NEW]).open("auth_state", "ann", after) == {"a": 1}
    assert Vault([NEW]).open("auth_state", "ann", before) is None, "the old key was taken out"


@pytest.mark.parametrize("text", ["", "x", "gAAAA", "\udc00", "é" * 50])
def test_what_is_not_ours_opens_as_nothing(text) -> None:
    assert Vault([NEW]).open("auth_state", "ann", text) is None
    assert Vault([NEW]).stale(text)


def test_a_changed_byte_opens_nothing() -> None:
    text = Vault([NEW]).seal("auth_state", "ann", {"a": 1})
    other = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    assert Vault([NEW]).open("auth_state", "ann", other) is None


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        Vault([NEW]).seal("auth_state", "ann", {"a": object()})
    with pytest.raises(ValueError, match="longer than"):
        Vault([NEW]).seal("auth_state", "ann", {"a": "x" * LIMIT})
