"""What may be added to a job, and what is refused without a word about its value."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.additions import (
    ALL_LIMIT,
    FILE_LIMIT,
    MOST_FILES,
    MOST_VARIABLES,
    NO_ADDITIONS,
    VALUE_LIMIT,
    Additions,
    merged,
    read_additions,
)
from batchhub.core.errors import BadInput

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True).map("X_{}".format)
FILES = st.from_regex(r"[a-z][a-z.]{0,5}", fullmatch=True)
PARTS = st.builds(
    Additions,
    st.dictionaries(NAMES, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), max_size=4),
    st.dictionaries(FILES, st.binary(max_size=5), max_size=4),
)
SECRET = "hunter2"


@given(st.lists(PARTS, max_size=4))
def test_the_later_one_counts(parts) -> None:
    whole = merged(parts)
    for kind in ("environment", "files"):
        names = {name for part in parts for name in getattr(part, kind)}
        assert getattr(whole, kind).keys() == names
        for name in names:
            last = [getattr(part, kind)[name] for part in parts if name in getattr(part, kind)][-1]
            assert getattr(whole, kind)[name] == last


@given(PARTS)
def test_what_a_hook_answers_is_read(part) -> None:
    assert read_additions({"environment": dict(part.environment), "files": dict(part.files)}) == part
    assert read_additions(part) is part


def test_text_becomes_bytes_and_nothing_is_nothing() -> None:
    assert read_additions({"files": {"note": "é"}}).files == {"note": "é".encode()}
    for nothing in (None, {}, {"environment": None}, NO_ADDITIONS):
        assert not read_additions(nothing)
    assert Additions(environment={"A": ""})


def test_nobody_changes_it_afterwards_and_it_prints_nothing() -> None:
    given_values = {"TOKEN": SECRET}
    made = Additions(given_values, {"f": SECRET.encode()})
    given_values["TOKEN"] = "other"
    assert made.environment["TOKEN"] == SECRET
    assert SECRET not in repr(made)
    with pytest.raises(TypeError):
        made.environment["TOKEN"] = "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.files = {}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (SECRET, "not str"),
        ({"env": {"A": SECRET}}, "'env' is neither"),
        ({"environment": [SECRET]}, "environment: a mapping"),
        ({"files": SECRET}, "files: a mapping"),
        ({"environment": {"1A": SECRET}}, "'1A' cannot name a variable"),
        ({"environment": {"A\n": SECRET}}, "cannot name a variable"),
        ({"environment": {"A=B": SECRET}}, "cannot name a variable"),
        ({"environment": {"": SECRET}}, "cannot name a variable"),
        ({"environment": {7: SECRET}}, "cannot name a variable"),
        ({"environment": {"Ä": SECRET}}, "cannot name a variable"),
        ({"environment": {"A": 7}}, "must be text, not int"),
        ({"environment": {"A": SECRET + "\0"}}, "no NUL"),
        ({"environment": {"A": SECRET + "\udc00"}}, "UTF-8"),
        ({"environment": {"A": SECRET * VALUE_LIMIT}}, "bytes long"),
        ({"environment": {"A": "é" * (VALUE_LIMIT // 2 + 1)}}, "bytes long"),
        ({"environment": {"BATCHHUB_JOB_DIR": SECRET}}, "the hub's own"),
        ({"environment": {"JUPYTERHUB_API_TOKEN": SECRET}}, "the hub's own"),
        ({"environment": {"JUPYTER_TOKEN": SECRET}}, "the hub's own"),
        ({"environment": {"BASH_ENV": SECRET}}, "the hub's own"),
        ({"environment": {f"A{number}": SECRET for number in range(MOST_VARIABLES + 1)}}, "At most"),
        ({"files": {"../x": SECRET}}, "cannot name a file"),
        ({"files": {"a/b": SECRET}}, "cannot name a file"),
        ({"files": {".": SECRET}}, "cannot name a file"),
        ({"files": {"..": SECRET}}, "cannot name a file"),
        ({"files": {".bashrc": SECRET}}, "cannot name a file"),
        ({"files": {"-rf": SECRET}}, "cannot name a file"),
        ({"files": {"a\n": SECRET}}, "cannot name a file"),
        ({"files": {"a" * 101: SECRET}}, "cannot name a file"),
        ({"files": {7: SECRET}}, "cannot name a file"),
        ({"files": {"a": 7}}, "text or bytes, not int"),
        ({"files": {"a": SECRET + "\udc00"}}, "UTF-8"),
        ({"files": {"a": SECRET * FILE_LIMIT}}, "bytes long"),
        ({"files": {f"a{number}": SECRET for number in range(MOST_FILES + 1)}}, "At most"),
        ({"files": {f"a{number}": "x" * FILE_LIMIT for number in range(ALL_LIMIT // FILE_LIMIT + 1)}}, "in all"),
    ],
)
def test_what_cannot_be_carried_out(answer, sentence) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        read_additions(answer)
    if answer is not SECRET:
        assert SECRET not in str(caught.value)


def test_files_given_directly_must_be_bytes() -> None:
    with pytest.raises(BadInput, match="must be bytes, not str"):
        Additions(files={"a": "text"})
