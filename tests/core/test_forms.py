"""The form: every kind of field, all errors at once, and nothing that could mean something to a shell."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, ConfigError, InvalidForm
from batchhub.core.forms import (
    DEFAULT_TEXT_PATTERN,
    STANDARD,
    Choice,
    Field,
    FieldKind,
    Profile,
    check,
    check_definition,
    read,
    with_queues,
)
from batchhub.core.model import OptionValue, QueueInfo

PARTITION = Field("partition", FieldKind.CHOICE)
CORES = Field("cores", FieldKind.NUMBER, minimum=1, maximum=8, required=True)
MEMORY = Field("memory", FieldKind.MEMORY, minimum=128, maximum=65536)
WALLTIME = Field("walltime", FieldKind.WALLTIME, minimum=60, maximum=28800)
ACCOUNT = Field("account", FieldKind.TEXT, max_length=8)
SHORT = QueueInfo("short", default=True, max_cores=4, max_walltime=timedelta(hours=1))
LONG = QueueInfo("long", max_cores=64)
SHUT = QueueInfo("shut", open=False)


def profile(*fields: Field, **fixed: OptionValue) -> Profile:
    return Profile("lab", "hpc", fields=fields, fixed=fixed)


def form(**typed: str) -> dict[str, list[str]]:
    return {name: [text] for name, text in typed.items()}


@pytest.mark.parametrize(
    ("asked", "text", "value"),
    [
        (CORES, "4", 4),
        (CORES, " 8 ", 8),
        (Field("scale", FieldKind.NUMBER, whole=False), "1.5", 1.5),
        (Field("scale", FieldKind.NUMBER, whole=False), "-2", -2),
        (Field("scale", FieldKind.NUMBER), "", None),
        (MEMORY, "8G", 8192),
        (MEMORY, "", None),
        (WALLTIME, "1:30", 5400),
        (ACCOUNT, "proj-1", "proj-1"),
        (ACCOUNT, "  ", None),
        (Field("x", FieldKind.CHOICE, choices=(Choice("a", "A"), Choice("b"))), "b", "b"),
        (PARTITION, "", None),
        (PARTITION, "gpu,long", "gpu,long"),
        (Field("on", FieldKind.CHECKBOX), "on", True),
        (Field("on", FieldKind.CHECKBOX), "", False),
        (Field("on", FieldKind.CHECKBOX), "False", False),
        (Field("on", FieldKind.CHECKBOX), "0", False),
        (Field("cores", FieldKind.CHOICE, choices=(Choice("1"), Choice("4"))), "4", 4),
        (Field("walltime", FieldKind.CHOICE, choices=(Choice("28800", "8h"),)), "28800", 28800),
        (Field("walltime", FieldKind.CHOICE, choices=(Choice("28800", "8h"),)), "8h", 28800),
    ],
)
def test_what_is_read(asked: Field, text: str, value: OptionValue | None) -> None:
    found = read(asked, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("asked", "text", "words"),
    [
        (CORES, "", "This is needed."),
        (CORES, "0", "At least 1; 0 is too little."),
        (CORES, "9", "At most 8; 9 is too much."),
        (CORES, "1.5", "is not a whole number"),
        (CORES, "four", "is not a whole number"),
        (CORES, "1e3", "is not a whole number"),
        (CORES, "٤", "is not a whole number"),
        (CORES, "9" * 13, "is not a whole number"),
        (Field("scale", FieldKind.NUMBER, whole=False), "nan", "is not a number"),
        (MEMORY, "128G", "At most 64G; 128G is too much."),
        (MEMORY, "1M", "At least 128M; 1M is too little."),
        (WALLTIME, "9h", "At most 8h; 9h is too much."),
        (WALLTIME, "8:00:01", "At most 8h; 8:00:01 is too much."),
        (WALLTIME, "60", "is not a time"),
        (ACCOUNT, "a b", "does not have the expected form"),
        (ACCOUNT, "123456789", "At most 8 characters; these are 9."),
        (ACCOUNT, "a\nb", "Control characters"),
        (ACCOUNT, "a\n", "Control characters"),
        (ACCOUNT, "a\u202eb", "Control characters"),
        (Field("x", FieldKind.CHOICE, choices=(Choice("a"), Choice("b", "Bee"))), "c", "choose one of a, Bee."),
        (Field("x", FieldKind.CHOICE, choices=(Choice("a"),)), "", "This is needed."),
        (PARTITION, "$(id)", "is not a name"),
        (Field("cores", FieldKind.CHOICE, choices=(Choice("1"), Choice("4"))), "2", "choose one of 1, 4."),
        (Field("walltime", FieldKind.CHOICE, choices=(Choice("28800", "8h"),)), "9h", "choose one of 8h."),
    ],
)
def test_what_is_refused(asked: Field, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words)):
        read(asked, text)


def test_all_errors_at_once() -> None:
    with pytest.raises(InvalidForm) as caught:
        check(profile(CORES, MEMORY, WALLTIME, ACCOUNT), form(cores="99", memory="much", walltime="1h", account="a b"))
    assert set(caught.value.fields) == {"cores", "memory", "account"}


def test_fixed_values_are_added_and_empty_ones_left_out() -> None:
    asked = profile(CORES, MEMORY, partition="gpu", walltime=3600)
    assert check(asked, form(cores="2")) == {"cores": 2, "partition": "gpu", "walltime": 3600}


def test_what_is_typed_cannot_replace_what_is_fixed_and_unknown_names_are_ignored() -> None:
    asked = profile(CORES, account="ours")
    found = check(asked, form(cores="2", account="theirs", reservation="r", prologue="rm -rf"))
    assert found == {"cores": 2, "account": "ours"}


def test_the_last_of_several_values_counts() -> None:
    assert check(profile(CORES), {"cores": ["99", "2"]}) == {"cores": 2}


# ---------------------------------------------------------------- the cluster's limits


def refused(asked: Profile, queues: tuple[QueueInfo, ...] = (SHORT, LONG), **typed: str) -> dict[str, str]:
    with pytest.raises(InvalidForm) as caught:
        check(asked, form(**typed), queues)
    return dict(caught.value.fields)


def test_limits_are_those_of_the_chosen_partition() -> None:
    asked = profile(PARTITION, CORES)
    assert refused(asked, partition="short", cores="8") == {"cores": "partition short has at most 4 cores on a node."}
    assert check(asked, form(partition="long", cores="8"), (SHORT, LONG)) == {"partition": "long", "cores": 8}


def test_without_a_partition_the_default_ones_hold() -> None:
    for asked in (profile(CORES), profile(PARTITION, CORES)):
        assert "cores" in refused(asked, cores="8")
    assert check(profile(CORES), form(cores="8"), (LONG,)) == {"cores": 8}


def test_a_refused_partition_is_its_only_error() -> None:
    asked = with_queues(profile(PARTITION, CORES), (SHORT, LONG))
    assert set(refused(asked, partition="no", cores="8")) == {"partition"}


def test_no_partition_is_fine_where_the_site_offers_none() -> None:
    assert check(profile(PARTITION, CORES), form(partition="", cores="2")) == {"cores": 2}


def test_a_partition_the_cluster_did_not_name_has_no_limits_we_know() -> None:
    assert check(profile(PARTITION, CORES), form(partition="a,b", cores="8"), (SHORT,))["partition"] == "a,b"


def test_limits_on_fixed_values_blame_no_field() -> None:
    asked = profile(CORES, walltime=7200, gpus=1)
    words = refused(asked, (replace(SHORT, max_gpus=0),), cores="2")
    assert words == {"": "partition short allows at most 1h. partition short has no GPUs."}


def test_a_fields_own_error_is_said_before_the_partitions() -> None:
    assert refused(profile(CORES), cores="9") == {"cores": "At most 8; 9 is too much."}


def test_choices_of_amounts_meet_the_limits_too() -> None:
    asked = profile(Field("cores", FieldKind.CHOICE, choices=(Choice("2"), Choice("64"))))
    assert "cores" in refused(asked, cores="64")


def test_the_partition_field_is_filled_from_the_cluster() -> None:
    filled = with_queues(profile(PARTITION, CORES), (LONG, SHUT, SHORT)).fields[0]
    assert filled.choices == (
        Choice("long", "long (64 cores a node)"),
        Choice("short", "short (up to 1h, 4 cores a node)"),
    )
    assert filled.default == "short"


def test_the_sites_own_choices_and_default_stay() -> None:
    own = replace(PARTITION, choices=(Choice("gpu"),))
    assert with_queues(profile(own), (SHORT,)).fields == (own,)
    assert with_queues(profile(replace(PARTITION, default="long")), (SHORT, LONG)).fields[0].default == "long"


def test_nothing_is_filled_in_where_nobody_could_be_asked() -> None:
    asked = profile(PARTITION, CORES)
    assert with_queues(asked, ()) is asked
    assert with_queues(asked, (SHUT,)) is asked
    assert with_queues(profile(CORES), (replace(LONG, max_gpus=2), SHORT)).fields == (CORES,)
    assert "2 GPUs" in with_queues(asked, (replace(LONG, max_gpus=2),)).fields[0].choices[0].label
    assert with_queues(asked, (QueueInfo("q"),)).fields[0].default == "q"


# ---------------------------------------------------------------- a site's definitions


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Field("Cores", FieldKind.NUMBER), "lower-case letters"),
        (Field("x", FieldKind.CHOICE), "needs 'choices'"),
        (Field("x", FieldKind.NUMBER, minimum=2, maximum=1), "above maximum"),
        (Field("x", FieldKind.TEXT, pattern="("), "not a regular expression"),
        (Field("x", FieldKind.TEXT, max_length=0), "lets nothing in"),
        (Field("x", FieldKind.TEXT, default="a b"), "the default does not pass"),
        (Field("x", FieldKind.TEXT, default=" "), "it is empty"),
        (Field("x", FieldKind.NUMBER, maximum=4, default=5), "At most 4"),
        (Field("x", FieldKind.CHOICE, choices=(Choice("a"),), default="b"), "not offered"),
        (Field("x", FieldKind.CHOICE, choices=(Choice("a\nb"),)), "could never be chosen"),
        (Field("x", FieldKind.CHOICE, choices=(Choice(""),)), "could never be chosen"),
        (Field("x", FieldKind.CHOICE, choices=(Choice(" a"),)), "could never be chosen"),
        (Field("cores", FieldKind.TEXT), "kind 'text' does not fit; choice or number does"),
        (Field("walltime", FieldKind.NUMBER), "choice or walltime does"),
        (Field("account", FieldKind.CHECKBOX), "choice or text does"),
        (Field("cores", FieldKind.NUMBER, whole=False), "'whole' must be true"),
        (Field("cores", FieldKind.CHOICE, choices=(Choice("many"),)), "could never be chosen"),
    ],
)
def test_a_field_that_could_never_be_answered_is_an_error_at_start(asked: Field, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        check_definition(asked, "profile 'lab'")
    assert f"profile 'lab', field {asked.name!r}" in str(caught.value)


def test_good_definitions() -> None:
    for asked in (PARTITION, CORES, MEMORY, WALLTIME, ACCOUNT, Field("on", FieldKind.CHECKBOX, default=True)):
        check_definition(asked, "profile 'lab'")
    check_definition(replace(WALLTIME, default=90, maximum=90), "profile 'lab'")


# ---------------------------------------------------------------- whatever is sent

ODD = st.text(st.characters(codec="utf-8") | st.sampled_from("$`;&|<>\\'\"(){}*?~!#\n\r\t\0\x1b "), max_size=40)


@given(ODD)
def test_no_text_outside_its_pattern_passes(text: str) -> None:
    for name in ("account", "qos", "own"):
        try:
            value = read(Field(name, FieldKind.TEXT), text)
        except BadInput:
            continue
        assert value is None or re.fullmatch(DEFAULT_TEXT_PATTERN, str(value))


@given(ODD)
def test_a_sites_widest_pattern_still_lets_no_control_character_in(text: str) -> None:
    try:
        value = read(Field("x", FieldKind.TEXT, pattern="(?s).*"), text)
    except BadInput:
        return
    assert value is None or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", str(value))


@given(st.dictionaries(st.sampled_from(STANDARD) | st.text(max_size=8), st.lists(ODD, max_size=3)))
def test_any_form_gives_only_checked_values_or_errors_at_its_fields(raw: dict[str, list[str]]) -> None:
    choice = Field("x", FieldKind.CHOICE, choices=(Choice("a"),))
    asked = profile(PARTITION, CORES, MEMORY, WALLTIME, ACCOUNT, choice, Field("on", FieldKind.CHECKBOX))
    names = {field.name for field in asked.fields}
    values: dict[str, OptionValue] = {}
    errors: set[str] = set()
    try:
        values = check(asked, raw, (SHORT, LONG))
    except InvalidForm as error:
        errors = set(error.fields)
    assert bool(values) != bool(errors)
    assert values.keys() | errors <= names
    for value in values.values():
        assert isinstance(value, (bool, int, float)) or re.fullmatch(DEFAULT_TEXT_PATTERN, value)


@given(st.integers(60, 28800), st.integers(128, 65536), st.integers(1, 8))
def test_what_is_shown_reads_back_as_it_was(seconds: int, mib: int, cores: int) -> None:
    for asked, value in ((WALLTIME, seconds), (MEMORY, mib), (CORES, cores)):
        assert read(asked, asked.shown(value)) == value


def test_shown() -> None:
    assert WALLTIME.shown(None) == ""
    assert Field("on", FieldKind.CHECKBOX).shown(True) == "on"
    assert Field("on", FieldKind.CHECKBOX).shown(False) == ""
    assert ACCOUNT.shown("a") == "a"
