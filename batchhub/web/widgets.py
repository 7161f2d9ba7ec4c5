"""A profile's form as a page prints it: each field with its value, help, limits and error. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchhub.control.service import HubService
from batchhub.core.forms import Choice, Field, FieldKind, Profile
from batchhub.core.model import OptionValue

LABELS = {
    "partition": "Partition",
    "cores": "Cores",
    "memory": "Memory",
    "walltime": "Time",
    "gpus": "GPUs",
    "gpu_type": "Type of GPU",
    "account": "Account",
    "qos": "Quality of service (QOS)",
    "reservation": "Reservation",
}
"""What the standard fields are called where the site does not say."""

_HOW = {
    FieldKind.WALLTIME: "As 8h, 90m, 1d 12h or 8:00 (hours:minutes).",
    FieldKind.MEMORY: "As 8G, 512M or 1.5T; a bare number means GiB.",
}
_ON = frozenset({"on", "1", "true"})


@dataclass(frozen=True, slots=True)
class Widget:
    """One field of the page. ``described`` lists the ids of its help, error and hint, for ``aria-describedby``."""

    name: str
    id: str
    kind: str
    label: str
    help: str
    hint: str
    error: str
    value: str
    checked: bool
    required: bool
    short: bool
    inputmode: str
    max_length: int
    options: tuple[Choice, ...]
    described: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of the summary above a form; ``id`` is empty where there is no field to go to."""

    id: str
    label: str
    text: str


def label_of(asked: Field) -> str:
    """The site's label, ours for a standard field, or the name made readable."""
    return asked.label or LABELS.get(asked.name) or asked.name.replace("_", " ").capitalize()


def initial(
    profile: Profile, previous: Mapping[str, OptionValue], given: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The values a fresh form shows: the address's own, else those used last, else the defaults."""
    found = {}
    for asked in profile.fields:
        if given.get(asked.name):
            found[asked.name] = given[asked.name][-1][: asked.max_length]
        else:
            value = previous.get(asked.name, asked.default)
            found[asked.name] = asked.shown(value) if _fits(asked, value) else asked.shown(asked.default)
    return found


def posted(profile: Profile, raw: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The values a form that came back shows: what was typed, right or wrong."""
    return {asked.name: (list(raw.get(asked.name, ())) or [""])[-1] for asked in profile.fields}


def widgets(profile: Profile, values: Mapping[str, str], errors: Mapping[str, str]) -> tuple[Widget, ...]:
    """The form's fields, in its order."""
    return tuple(_widget(asked, values.get(asked.name, ""), errors.get(asked.name, "")) for asked in profile.fields)


def problems(profile: Profile, errors: Mapping[str, str]) -> tuple[Problem, ...]:
    """The summary: errors of fields in the form's order, then those no field is to blame for."""
    known = {asked.name: asked for asked in profile.fields}
    of_fields = [
        Problem(_id(name), label_of(asked), _sentence(errors[name])) for name, asked in known.items() if name in errors
    ]
    others = [Problem("", "", _sentence(text)) for name, text in errors.items() if name not in known]
    return (*of_fields, *others)


def clusters_to_tell(hub: HubService) -> dict[str, str]:
    """Cluster name -> what a profile's card says of it: nothing where there is no other to choose."""
    names = {profile.cluster for profile in hub.profiles()}
    titles = hub.cluster_titles()
    return {name: titles.get(name, name) if len(names) > 1 else "" for name in names}


def _widget(asked: Field, value: str, error: str) -> Widget:
    kind = {FieldKind.CHOICE: "select", FieldKind.CHECKBOX: "checkbox"}.get(asked.kind, "text")
    if asked.kind is FieldKind.CHOICE and not asked.choices:
        kind = "text"  # nobody could say which partitions there are: the name can still be typed
    hint = _hint(asked)
    parts = (("help", asked.help), ("error", error), ("hint", hint if kind != "checkbox" else ""))
    return Widget(
        name=asked.name,
        id=_id(asked.name),
        kind=kind,
        label=label_of(asked),
        help=asked.help,
        hint=hint,
        error=_sentence(error),
        value=value,
        checked=value.lower() in _ON,
        required=asked.required or asked.kind in {FieldKind.CHOICE, FieldKind.CHECKBOX},
        short=asked.kind in {FieldKind.NUMBER, FieldKind.MEMORY, FieldKind.WALLTIME},
        inputmode=("numeric" if asked.whole else "decimal") if asked.kind is FieldKind.NUMBER else "",
        max_length=asked.max_length,
        options=asked.choices,
        described=" ".join(f"{_id(asked.name)}-{part}" for part, text in parts if text),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _id(name: str) -> str:
    return f"field-{name}"


def _fits(asked: Field, value: OptionValue | None) -> bool:
    """Whether a value used last can still be shown: the site may have changed the field since."""
    match asked.kind:
        case FieldKind.CHOICE:
            return not asked.choices or str(value) in {choice.value for choice in asked.choices}
        case FieldKind.CHECKBOX:
            return isinstance(value, bool)
        case FieldKind.TEXT:
            return isinstance(value, str)
        case _:
            return isinstance(value, (int, float)) and not isinstance(value, bool)


def _hint(asked: Field) -> str:
    parts = [_HOW.get(asked.kind, "")]
    low = asked.shown(_whole(asked.minimum)) if asked.minimum is not None else ""
    high = asked.shown(_whole(asked.maximum)) if asked.maximum is not None else ""
    if low and high:
        parts.append(f"From {low} to {high}.")
    elif high:
        parts.append(f"At most {high}.")
    elif low:
        parts.append(f"At least {low}.")
    return " ".join(part for part in parts if part)


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value
