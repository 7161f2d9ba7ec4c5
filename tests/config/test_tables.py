"""Tables into values: strict, with a suggestion for every misspelt name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NewType

import pytest

from batchhub.config.tables import check_keys, read, suggest
from batchhub.core.errors import ConfigError

Name = NewType("Name", str)


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    host: str
    port: int = 22

    def __post_init__(self) -> None:
        if self.port < 1:
            raise ValueError("port must be positive")


@dataclass(frozen=True, slots=True)
class Outer:
    name: Name
    inner: Inner | None = None
    ratio: float = 1.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    pair: tuple[int, int] | None = None
    either: int | str = 0
    env: Mapping[str, str] = field(default_factory=dict)
    colour: Colour = Colour.RED
    any: Any = None
    ours: int = field(default=0, init=False)


def test_a_whole_table() -> None:
    found = read(
        Outer,
        {
            "name": "x",
            "inner": {"host": "h"},
            "ratio": 2,
            "flag": True,
            "kind": "b",
            "words": ["a", "b"],
            "pair": [1, 2],
            "either": "text",
            "env": {"A": "b"},
            "colour": "red",
            "any": [1, None],
        },
        "here",
    )
    assert found == Outer(
        Name("x"), Inner("h"), 2.0, True, "b", ("a", "b"), (1, 2), "text", {"A": "b"}, Colour.RED, [1, None]
    )
    assert isinstance(found.ratio, float)


def test_values_that_are_made_already_and_none() -> None:
    inner = Inner("h")
    assert read(Outer, {"name": "x", "inner": inner, "pair": None}, "here").inner is inner


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "here: a table is expected, not []."),
        ({}, "here: 'name' is needed."),
        ({"nam": "x"}, "here: unknown setting 'nam'; did you mean 'name'?"),
        ({"name": "x", "zzz": 1}, "known: any, colour, either, env, flag, inner, kind, name, pair, ratio, words."),
        ({"name": "x", "ours": 1}, "unknown setting 'ours'"),
        ({"name": 1}, "here.name: 1 is not of type str."),
        ({"name": None}, "here.name: None is not of type str."),
        ({"name": "x", "flag": 1}, "here.flag: 1 is not of type bool."),
        ({"name": "x", "ratio": True}, "here.ratio: True is not of type float."),
        ({"name": "x", "ratio": "1"}, "here.ratio: '1' is not of type float."),
        ({"name": "x", "kind": "c"}, "here.kind: 'c' is not one of 'a', 'b'."),
        ({"name": "x", "words": "abc"}, "here.words: a list is expected, not 'abc'."),
        ({"name": "x", "words": ["a", 1]}, "here.words[1]: 1 is not of type str."),
        ({"name": "x", "pair": [1]}, "here.pair: 2 values are expected, not 1."),
        ({"name": "x", "pair": [1, "2"]}, "here.pair[1]: '2' is not of type int."),
        ({"name": "x", "either": []}, "here.either: [] is not of type int."),
        ({"name": "x", "env": ["a"]}, "here.env: a table is expected, not ['a']."),
        ({"name": "x", "env": {"A": 1}}, "here.env.A: 1 is not of type str."),
        ({"name": "x", "colour": "blue"}, "here.colour: 'blue' is not one of 'red'."),
        ({"name": "x", "inner": {"hots": "h"}}, "here.inner: unknown setting 'hots'; did you mean 'host'?"),
        ({"name": "x", "inner": {"host": "h", "port": 0}}, "here.inner: port must be positive"),
        ({"name": "x", "inner": "h"}, "here.inner: a table is expected, not 'h'."),
        ({"name": "x" * 200, "inner": "h" * 200}, "..."),
    ],
)
def test_every_mistake_names_place_value_and_what_would_be_right(table: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Outer, table, "here")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


def test_suggestions() -> None:
    assert suggest("prot", ["port", "ip"]) == "did you mean 'port'?"
    assert suggest("zzz", ["port", "ip"]) == "known: ip, port."
    check_keys({"a": 1}, ["a", "b"], "here")
    with pytest.raises(ConfigError, match="here: unknown setting 'hots'; did you mean 'host'"):
        check_keys({"hots": 1}, ["host"], "here")
