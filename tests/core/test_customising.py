"""Whom a rule is for, and what several make of one job."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.additions import MOST_FILES, Additions
from batchhub.core.customising import NOT_CUSTOMISED, Customisation, Rule, combined, hooked
from batchhub.core.errors import BadInput

FEW = st.sampled_from(["a", "b", "A", "ab"])
NAMES = st.lists(FEW, max_size=3).map(tuple)
RULES = st.builds(Rule, st.just("r"), groups=NAMES, profiles=NAMES, clusters=NAMES, users=NAMES)
TEXTS = st.dictionaries(st.sampled_from(["X", "Y", "Z"]), st.sampled_from(["1", "2"]), max_size=3)
PARTS = st.tuples(TEXTS, TEXTS, st.dictionaries(FEW, st.binary(max_size=2), max_size=2)).map(
    lambda made: Customisation({k: v for k, v in made[0].items() if k not in made[1]}, made[1], made[2])
)


@given(RULES, FEW, NAMES, FEW, FEW)
def test_every_condition_that_is_given_must_match(rule, user, groups, profile, cluster) -> None:
    found = rule.concerns(user=user, groups=groups, profile=profile, cluster=cluster)
    each = [
        not rule.groups or any(group in rule.groups for group in groups),
        not rule.profiles or profile in rule.profiles,
        not rule.clusters or cluster in rule.clusters,
        not rule.users or user in rule.users,
    ]
    assert found == all(each)


def test_without_a_condition_it_is_for_everybody_and_names_are_exact() -> None:
    assert Rule("r").concerns(user="x", groups=(), profile="p", cluster="c")
    assert not Rule("r", groups=("physics",)).concerns(
        user="x", groups=("Physics", "physics2"), profile="p", cluster="c"
    )


@given(st.lists(PARTS, max_size=5), TEXTS)
def test_the_later_one_counts_secret_or_not(parts, base) -> None:
    whole = combined(parts)
    told: dict[str, tuple[str, bool]] = {}
    files: dict[str, bytes] = {}
    for part in parts:
        told |= {name: (value, False) for name, value in part.plain.items()}
        told |= {name: (value, True) for name, value in part.secret.items()}
        files |= part.files
    assert dict(whole.plain) == {name: value for name, (value, secret) in told.items() if not secret}
    assert dict(whole.secret) == {name: value for name, (value, secret) in told.items() if secret}
    assert dict(whole.files) == files
    script = whole.over(base)
    assert not script.keys() & whole.secret.keys()
    assert script == {**{name: text for name, text in base.items() if name not in whole.secret}, **whole.plain}


def test_a_secret_is_not_printed() -> None:
    made = hooked(Additions({"TOKEN": "hunter2"}, {"key": b"hunter3"}))
    assert (dict(made.plain), dict(made.secret)) == ({}, {"TOKEN": "hunter2"})
    assert "hunter" not in repr(made)
    assert {field.name for field in fields(made) if field.repr} == {"plain"}


def test_much_of_several_is_too_much_for_one_job() -> None:
    parts = [Customisation({}, {}, {f"f{number}{half}": b"" for number in range(MOST_FILES // 2 + 1)}) for half in "ab"]
    assert combined(parts[:1]).files
    with pytest.raises(BadInput, match=f"{MOST_FILES} files"):
        combined(parts)
    assert combined([]) == NOT_CUSTOMISED


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "BATCHHUB_FILES", "JUPYTER_TOKEN", "JUPYTERHUB_X"]
)
def test_names_that_are_not_for_additions(name: str) -> None:
    for made in ({"plain": {name: "x"}}, {"secret": {name: "x"}}):
        with pytest.raises(BadInput, match=name):
            Customisation(**made)
