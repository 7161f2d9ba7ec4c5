"""Fields as the page prints them."""

from dataclasses import replace

import pytest

from batchhub.core.forms import Choice, Field, FieldKind, Profile
from batchhub.web.widgets import initial, posted, problems, widgets


def one(asked: Field, value: str = "", error: str = ""):
    return widgets(Profile("p", "c", fields=(asked,)), {asked.name: value}, {asked.name: error} if error else {})[0]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (Field("cores", FieldKind.NUMBER, minimum=1, maximum=8), "From 1 to 8."),
        (Field("cores", FieldKind.NUMBER, minimum=1), "At least 1."),
        (Field("scale", FieldKind.NUMBER, maximum=0.5, whole=False), "At most 0.5."),
        (
            Field("walltime", FieldKind.WALLTIME, maximum=5400),
            "As 8h, 90m, 1d 12h or 8:00 (hours:minutes). At most 1h 30m.",
        ),
        (Field("account", FieldKind.TEXT), ""),
    ],
)
def test_limits_are_told_in_the_fields_own_words(asked: Field, hint: str) -> None:
    assert one(asked).hint == hint


def test_a_partition_nobody_could_list_can_be_typed() -> None:
    asked = Field("partition", FieldKind.CHOICE)
    assert one(asked).kind == "text"
    assert one(replace(asked, choices=(Choice("a"),))).kind == "select"


def test_help_error_and_hint_are_tied_to_the_input() -> None:
    asked = Field("cores", FieldKind.NUMBER, help="How many.", maximum=8)
    assert one(asked, "9", "too many").described == "field-cores-help field-cores-error field-cores-hint"
    assert one(asked, "9", "too many").error == "Too many"
    assert one(Field("account", FieldKind.TEXT)).described == ""


def test_labels() -> None:
    assert one(Field("walltime", FieldKind.WALLTIME)).label == "Time"
    assert one(Field("conda_env", FieldKind.TEXT)).label == "Conda env"
    assert one(Field("cores", FieldKind.NUMBER, label="Processors")).label == "Processors"


def test_what_no_longer_fits_falls_back_to_the_default() -> None:
    fields = (
        Field("env", FieldKind.CHOICE, choices=(Choice("new"),), default="new"),
        Field("cores", FieldKind.NUMBER, default=2),
        Field("note", FieldKind.TEXT),
        Field("whole", FieldKind.CHECKBOX, default=True),
    )
    profile = Profile("p", "c", fields=fields)
    assert initial(profile, {"env": "old", "cores": "many", "note": 3, "whole": "yes"}, {}) == {
        "env": "new",
        "cores": "2",
        "note": "",
        "whole": "on",
    }
    assert initial(profile, {"cores": 4, "whole": False}, {"cores": ["8"]})["cores"] == "8"
    assert initial(profile, {"whole": False}, {})["whole"] == ""
    assert posted(profile, {"cores": ["1", "x"]}) == {"env": "", "cores": "x", "note": "", "whole": ""}


def test_errors_without_a_field_stand_alone() -> None:
    profile = Profile("p", "c", fields=(Field("cores", FieldKind.NUMBER),))
    found = problems(profile, {"": "no GPUs there", "cores": "too many"})
    assert [(problem.id, problem.text) for problem in found] == [("field-cores", "Too many"), ("", "No GPUs there")]
