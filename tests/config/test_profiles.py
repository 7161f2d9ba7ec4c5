"""Profiles from tables."""

import pytest

from batchhub.config.profiles import read_profiles
from batchhub.core.errors import ConfigError
from batchhub.core.forms import Choice, Field, FieldKind, Profile


def read(*tables: object) -> tuple[Profile, ...]:
    return read_profiles(tables, ["hpc"], ["jupyterlab"])  # type: ignore[arg-type]


def asked(**fields: object) -> dict[str, Field]:
    (profile,) = read({"name": "lab", "fields": fields})
    return {field.name: field for field in profile.fields}


def test_the_least() -> None:
    (profile,) = read({"name": "lab"})
    assert (profile.cluster, profile.application, profile.title) == ("hpc", "jupyterlab", "lab")
    assert [field.name for field in profile.fields] == ["partition", "cores", "memory", "walltime"]
    assert not any(field.help for field in profile.fields)


def test_order_is_ours_for_standard_fields_and_the_sites_for_its_own() -> None:
    assert list(asked(zeta={}, walltime={}, alpha={}, cores={})) == ["cores", "walltime", "zeta", "alpha"]


def test_units_are_as_people_write_them() -> None:
    fields = asked(
        walltime={"max": "1d", "default": "4h", "min": "10m"},
        memory={"max": "128G", "default": 4096},
        cores={"max": 32, "default": "4"},
    )
    assert (fields["walltime"].maximum, fields["walltime"].default, fields["walltime"].minimum) == (86400, 14400, 600)
    assert (fields["memory"].maximum, fields["memory"].default) == (131072, 4096)
    assert fields["cores"].default == 4


def test_limits_on_life_are_as_people_write_them_and_none_is_the_sites() -> None:
    (profile,) = read({"name": "lab", "idle_timeout": "2h", "max_lifetime": 0})
    assert (profile.idle_timeout, profile.max_lifetime) == (7200.0, 0.0)
    (profile,) = read({"name": "lab"})
    assert (profile.idle_timeout, profile.max_lifetime) == (None, None)


def test_our_default_gives_way_to_the_sites_limits() -> None:
    fields = asked(walltime={"max": "30m"}, memory={"min": "4G"}, cores={"min": 2})
    assert fields["walltime"].default == 1800
    assert fields["memory"].default == 4096
    assert fields["cores"].default == 2


def test_choices() -> None:
    fields = asked(
        partition={"choices": {"short": "Short (8 h)", "gpu": "GPU"}},
        course={"choices": ["none", "ml"], "default": "ml", "label": "Course"},
    )
    assert fields["partition"].choices == (Choice("short", "Short (8 h)"), Choice("gpu", "GPU"))
    assert fields["partition"].default == "short"
    assert (fields["course"].kind, fields["course"].default) == (FieldKind.CHOICE, "ml")


def test_choices_of_amounts_are_kept_as_amounts() -> None:
    fields = asked(
        walltime={"choices": ["1h", "8h"], "default": "8h"}, cores={"choices": [1, 4]}, memory={"choices": ["2G"]}
    )
    assert fields["walltime"].choices == (Choice("3600", "1h"), Choice("28800", "8h"))
    assert fields["walltime"].default == "28800"
    assert [choice.value for choice in fields["cores"].choices] == ["1", "4"]
    assert fields["memory"].choices == (Choice("2048", "2G"),)


def test_own_fields() -> None:
    fields = asked(
        debug={"kind": "checkbox", "default": True},
        scale={"kind": "number", "whole": False, "min": 0.5, "max": 2, "default": 1},
        image={"pattern": "[a-z]+", "max_length": 9, "help": "Which.", "required": True},
    )
    assert fields["debug"].default is True
    assert (fields["scale"].minimum, fields["scale"].maximum) == (0.5, 2)
    assert (fields["image"].pattern, fields["image"].required, fields["image"].label) == ("[a-z]+", True, "Image")


def test_fixed() -> None:
    (profile,) = read(
        {"name": "lab", "fields": {}, "fixed": {"walltime": "8h", "memory": "4G", "cores": "2", "own": True}}
    )
    assert profile.fixed == {"walltime": 28800, "memory": 4096, "cores": 2, "own": True}
    (profile,) = read({"name": "lab", "fixed": {"walltime": "8h"}})
    assert [field.name for field in profile.fields] == ["partition", "cores", "memory"], "nobody is asked what is fixed"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"titel": "x", "name": "lab"}, "profile 'lab': unknown setting 'titel'; did you mean 'title'?"),
        ({"title": "x"}, "profile 'number 1': 'name' is needed."),
        ({"name": ""}, "a profile's name is one line of 1 to 60 characters"),
        ({"name": "a\nb"}, "a profile's name is one line"),
        ({"name": "lab", "cluster": "hcp"}, "cluster 'hcp' is not defined; did you mean 'hpc'?"),
        ({"name": "lab", "application": "rstudio"}, "application 'rstudio' is not defined; known: jupyterlab."),
        ({"name": "lab", "at_most": -1}, "profile 'lab': at_most = -1 is no number of servers; 0 is no limit."),
        ({"name": "lab", "at_most_each": "2"}, "at_most_each: '2' is not of type int."),
        ({"name": "lab", "idle_timeout": "5"}, "profile 'lab', idle_timeout: '5' is not an amount"),
        ({"name": "lab", "idle_timeout": 5}, "idle_timeout: 5 is not 10 seconds to 365 days; 0 is no limit."),
        ({"name": "lab", "max_lifetime": -60}, "max_lifetime: -60 is not 10 seconds to 365 days"),
        ({"name": "lab", "max_lifetime": True}, "max_lifetime: True is not an amount"),
        ({"name": "lab", "fields": []}, "profile 'lab': 'fields' is a table"),
        ({"name": "lab", "fixed": [1]}, "profile 'lab': 'fixed' is a table"),
        ({"name": "lab", "fields": {"cores": 4}}, "field 'cores': a table is expected, such as {max = 16}."),
        ({"name": "lab", "fields": {"cores": {"maximum": 4}}}, "field 'cores': unknown setting 'maximum'"),
        ({"name": "lab", "fields": {"cores": {"max": "many"}}}, "field 'cores', max: 'many' is not an amount"),
        ({"name": "lab", "fields": {"cores": {"max": True}}}, "field 'cores', max: True is not an amount"),
        ({"name": "lab", "fields": {"cores": {"max": float("nan")}}}, "field 'cores', max: nan is not an amount"),
        ({"name": "lab", "fields": {"cores": {"max": 0}}}, "minimum 1 is above maximum 0"),
        ({"name": "lab", "fields": {"cores": {"kind": "txt"}}}, "kind 'txt' is not one of choice, number, text"),
        ({"name": "lab", "fields": {"cores": {"kind": "text"}}}, "kind 'text' does not fit; choice or number does"),
        ({"name": "lab", "fields": {"cores": {"max": 4, "default": 5}}}, "At most 4; 5 is too much."),
        (
            {"name": "lab", "fields": {"walltime": {"max": "8"}}},
            "field 'walltime', max: '8' is not an amount: '8' is not a time",
        ),
        (
            {"name": "lab", "fields": {"memory": {"default": "much"}}},
            "field 'memory', default: 'much' is not an amount",
        ),
        ({"name": "lab", "fields": {"course": {"choices": []}}}, "'choices' is a list of values"),
        ({"name": "lab", "fields": {"course": {"choices": {}}}}, "'choices' is a list of values"),
        ({"name": "lab", "fields": {"course": {"choices": "ab"}}}, "'choices' is a list of values"),
        ({"name": "lab", "fields": {"course": {"choices": ["a", "a"]}}}, "a choice is there twice"),
        ({"name": "lab", "fields": {"course": {"choices": ["a"], "default": "b"}}}, "'b' is not offered"),
        ({"name": "lab", "fields": {"course": {"kind": "text", "choices": ["a"]}}}, "'choices' are for kind 'choice'"),
        (
            {"name": "lab", "fields": {"course": {"max": 4}}},
            "only a number, a walltime or memory has limits, not a text",
        ),
        ({"name": "lab", "fields": {"course": {"label": 4}}}, "field 'course'.label: 4 is not of type str."),
        ({"name": "lab", "fields": {"course": {"required": "yes"}}}, "required: 'yes' is not of type bool."),
        ({"name": "lab", "fields": {"course": {"pattern": "("}}}, "is not a regular expression"),
        ({"name": "lab", "fields": {"on": {"kind": "checkbox", "default": "yes"}}}, "'yes' is not true or false"),
        ({"name": "lab", "fields": {"Course": {}}}, "lower-case letters"),
        ({"name": "lab", "fields": {"qos": {}}, "fixed": {"qos": "a"}}, "both a field and fixed"),
        ({"name": "lab", "fields": {}, "fixed": {"partition": "a b"}}, "fixed 'partition': 'a b' is not a name"),
        ({"name": "lab", "fields": {}, "fixed": {"cores": "four"}}, "fixed 'cores': 'four' is not an amount"),
        ({"name": "lab", "fields": {}, "fixed": {"cores": 1.5}}, "fixed 'cores': '1.5' is not a whole number"),
        ({"name": "lab", "fields": {}, "fixed": {"own": [1]}}, "fixed 'own': [1] is not a text, number or true/false"),
        ({"name": "lab", "fields": {}, "fixed": {"Own": 1}}, "lower-case letters"),
        (7, "profiles[0]: a table is expected."),
    ],
)
def test_every_mistake_names_profile_field_value_and_what_would_be_right(table: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(table)
    assert words in str(caught.value)


def test_profiles_as_a_whole() -> None:
    with pytest.raises(ConfigError, match="profile 'lab' is there twice"):
        read({"name": "lab"}, {"name": "lab"})
    with pytest.raises(ConfigError, match="a list of tables"):
        read_profiles({"lab": {}}, ["hpc"], ["jupyterlab"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'cluster' is needed"):
        read_profiles([{"name": "lab"}], ["a", "b"], ["jupyterlab"])


def test_a_profile_s_word_on_the_end_of_its_time() -> None:
    table = {"name": "lab", "cluster": "hpc", "time_up": {"save_before": 300, "command": "save", "signal": "USR1"}}
    (profile,) = read_profiles([table], ["hpc"], ["jupyterlab"])
    assert (profile.time_up.save_before, profile.time_up.command, profile.time_up.signal) == (300.0, "save", "USR1")
    with pytest.raises(ConfigError, match=r"time_up: unknown setting 'comand'; did you mean 'command'"):
        read_profiles([{**table, "time_up": {"comand": "x"}}], ["hpc"], ["jupyterlab"])
