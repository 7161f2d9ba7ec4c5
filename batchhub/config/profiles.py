"""Profiles from tables: what people can start, and what its form asks.

A table's keys are those of :class:`batchhub.core.forms.Profile`; ``fields`` is a table of tables, one for each question, with short cuts for
the standard names (``cores = {max = 16}``), because every site asks these in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from batchhub.config.tables import check_keys, read, suggest
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.forms import AMOUNTS, STANDARD, Choice, Field, FieldKind, Profile, check_definition
from batchhub.core.forms import read as read_answer
from batchhub.core.limits import parse_memory, parse_walltime
from batchhub.core.model import OptionValue

_STANDARD_FIELDS: dict[str, Field] = {
    "partition": Field("partition", FieldKind.CHOICE, "Partition"),
    "cores": Field("cores", FieldKind.NUMBER, "Cores", default=1, minimum=1, required=True),
    "memory": Field("memory", FieldKind.MEMORY, "Memory", default=2048, minimum=128),
    "walltime": Field("walltime", FieldKind.WALLTIME, "Time", default=3600, minimum=60, required=True),
    "gpus": Field("gpus", FieldKind.NUMBER, "GPUs", default=0, minimum=0),
    "gpu_type": Field("gpu_type", FieldKind.TEXT, "GPU type"),
    "account": Field("account", FieldKind.TEXT, "Account", "The project that the time is charged to."),
    "qos": Field("qos", FieldKind.TEXT, "QOS"),
    "reservation": Field("reservation", FieldKind.TEXT, "Reservation"),
}

MAX_NAME = 60
"""Characters of a profile's name."""


@dataclass(frozen=True, slots=True)
class _Words:
    """What a field's table says as it is; the rest depends on the field's kind."""

    label: str = ""
    help: str = ""
    whole: bool = True
    pattern: str = ""
    max_length: int = 0
    required: bool = False


_USUAL = ("partition", "cores", "memory", "walltime")
"""What is asked where a profile's table does not say."""

_DURATIONS = ("idle_timeout", "max_lifetime")
_LONGEST = 365 * 24 * 3600
_WORD_KEYS = tuple(field.name for field in dataclass_fields(_Words))
_FIELD_KEYS = ("kind", "default", "choices", "min", "max", *_WORD_KEYS)
_PROFILE_KEYS = tuple(field.name for field in dataclass_fields(Profile))
_WITH_LIMITS = frozenset({FieldKind.NUMBER, FieldKind.WALLTIME, FieldKind.MEMORY})


def read_profiles(
    tables: Sequence[Mapping[str, Any]], clusters: Sequence[str], applications: Sequence[str]
) -> tuple[Profile, ...]:
    """All profiles. Raises ConfigError naming profile, field, value and what would be right."""
    if not isinstance(tables, (list, tuple)):
        raise ConfigError("profiles: a list of tables is expected.")
    found: list[Profile] = []
    for number, table in enumerate(tables):
        if not isinstance(table, Mapping):
            raise ConfigError(f"profiles[{number}]: a table is expected.")
        profile = _profile(table, f"profile {table.get('name', f'number {number + 1}')!r}", clusters)
        if any(other.name == profile.name for other in found):
            raise ConfigError(f"profile {profile.name!r} is there twice.")
        _defined(profile, "cluster", profile.cluster, clusters)
        _defined(profile, "application", profile.application, applications)
        found.append(profile)
    return tuple(found)


def _defined(profile: Profile, what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"profile {profile.name!r}: {what} {name!r} is not defined; {suggest(name, known)}")


def _profile(table: Mapping[str, Any], where: str, clusters: Sequence[str]) -> Profile:
    check_keys(table, _PROFILE_KEYS, where)
    plain = {key: value for key, value in table.items() if key not in {"fields", "fixed"}}
    plain.update({key: _duration(table[key], f"{where}, {key}") for key in _DURATIONS if key in table})
    if len(clusters) == 1:
        plain.setdefault("cluster", clusters[0])
    profile = read(Profile, plain, where)
    if not 0 < len(profile.name) <= MAX_NAME or not profile.name.isprintable():
        raise ConfigError(f"{where}: a profile's name is one line of 1 to {MAX_NAME} characters.")
    for key in ("at_most", "at_most_each"):
        if getattr(profile, key) < 0:
            raise ConfigError(f"{where}: {key} = {getattr(profile, key)} is no number of servers; 0 is no limit.")
    fixed = table.get("fixed", {})
    asked = table.get("fields", {name: {} for name in _USUAL if name not in fixed})
    for key, value in (("fields", asked), ("fixed", fixed)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key!r} is a table, not {value!r:.60}.")
    for name in asked.keys() & fixed.keys():
        raise ConfigError(f"{where}: {name!r} is both a field and fixed; people are asked, or they are not.")
    questions = tuple(_field(str(name), value, where) for name, value in asked.items())
    order = {name: number for number, name in enumerate(STANDARD)}
    questions = tuple(sorted(questions, key=lambda field: order.get(field.name, len(order))))
    values = {str(name): _fixed(str(name), value, where) for name, value in fixed.items()}
    return replace(profile, fields=questions, fixed=values, title=profile.title or profile.name)


def _duration(value: Any, place: str) -> float:
    """Seconds, from ``"2h"`` or a number of them; 0 is no limit."""
    seconds = _amount(Field("walltime", FieldKind.WALLTIME), value, place)
    if seconds and not 10 <= seconds <= _LONGEST:
        raise ConfigError(f"{place}: {value!r} is not 10 seconds to 365 days; 0 is no limit.")
    return seconds


def _field(name: str, table: Any, where: str) -> Field:
    place = f"{where}, field {name!r}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: a table is expected, such as {{max = 16}}.")
    check_keys(table, _FIELD_KEYS, place)
    base = _STANDARD_FIELDS.get(name, Field(name, FieldKind.TEXT, name.replace("_", " ").capitalize()))
    base = replace(base, kind=_kind(table, base, place))
    given = read(_Words, {key: table[key] for key in _WORD_KEYS if key in table}, place)
    base = replace(base, **{key: getattr(given, key) for key in _WORD_KEYS if key in table})
    base = replace(
        base,
        minimum=_limit(base, table["min"], f"{place}, min") if "min" in table else base.minimum,
        maximum=_limit(base, table["max"], f"{place}, max") if "max" in table else base.maximum,
    )
    if "choices" in table:
        choices = _choices(base, table["choices"], place)
        base = replace(base, choices=choices, default=choices[0].value)
    elif base.kind is not _STANDARD_FIELDS.get(name, base).kind:
        base = replace(base, default=None)  # it was the other kind's
    if "default" in table:
        base = replace(base, default=_kept(base, table["default"], f"{place}, default"))
    elif not base.choices:
        base = replace(base, default=_within(base))
    check_definition(base, where)
    return base


def _within(asked: Field) -> OptionValue | None:
    """Our own default, moved inside the site's limits: these are the site's word."""
    value = asked.default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if asked.maximum is not None and value > asked.maximum:
        return int(asked.maximum)
    if asked.minimum is not None and value < asked.minimum:
        return math.ceil(asked.minimum)
    return value


def _kind(table: Mapping[str, Any], base: Field, place: str) -> FieldKind:
    if "kind" not in table:
        return FieldKind.CHOICE if "choices" in table else base.kind
    try:
        return FieldKind(table["kind"])
    except ValueError:
        raise ConfigError(f"{place}: kind {table['kind']!r} is not one of {', '.join(FieldKind)}.") from None


def _choices(asked: Field, value: Any, place: str) -> tuple[Choice, ...]:
    if asked.kind is not FieldKind.CHOICE:
        raise ConfigError(f"{place}: 'choices' are for kind 'choice', this is {asked.kind.value!r}.")
    if isinstance(value, Mapping) and value:
        pairs = [(key, str(label)) for key, label in value.items()]
    elif isinstance(value, (list, tuple)) and value:
        pairs = [(item, str(item)) for item in value]
    else:
        raise ConfigError(f"{place}: 'choices' is a list of values, or a table of value = label, with one at least.")
    choices = tuple(Choice(_choice_value(asked, key, place), label) for key, label in pairs)
    if len({choice.value for choice in choices}) != len(choices):
        raise ConfigError(f"{place}: a choice is there twice.")
    return choices


def _choice_value(asked: Field, value: Any, place: str) -> str:
    natural = AMOUNTS.get(asked.name)
    if natural is None:
        return str(value)
    return str(int(_amount(Field(asked.name, natural), value, f"{place}, choices")))


def _fixed(name: str, value: Any, where: str) -> OptionValue:
    """A fixed value passes the same check as a typed one."""
    place = f"{where}, fixed {name!r}"
    asked = _STANDARD_FIELDS.get(name)
    kept = _kept(asked, value, place)
    if asked is None:
        check_definition(Field(name, FieldKind.TEXT), f"{where}, fixed")
        return kept
    try:
        found = read_answer(asked, asked.shown(kept))
    except BadInput as error:
        raise ConfigError(f"{place}: {error}") from error
    return kept if found is None else found


def _kept(asked: Field | None, value: Any, place: str) -> OptionValue:
    """A value of the configuration in the field's kept unit: ``"8h"`` is seconds, ``"4G"`` is MiB."""
    if not isinstance(value, (str, int, float, bool)):
        raise ConfigError(f"{place}: {value!r} is not a text, number or true/false.")
    if asked is None:
        return value
    match asked.kind:
        case FieldKind.CHECKBOX if not isinstance(value, bool):
            raise ConfigError(f"{place}: {value!r} is not true or false.")
        case FieldKind.NUMBER | FieldKind.WALLTIME | FieldKind.MEMORY:
            return _tidy(_amount(asked, value, place))
        case FieldKind.CHOICE if asked.choices:
            return _choice_value(asked, value, place)
        case FieldKind.TEXT | FieldKind.CHOICE:
            return str(value)
        case _:
            return value


def _limit(asked: Field, value: Any, place: str) -> float:
    if asked.kind not in _WITH_LIMITS:
        raise ConfigError(f"{place}: only a number, a walltime or memory has limits, not a {asked.kind.value}.")
    return _tidy(_amount(asked, value, place))


def _amount(asked: Field, value: Any, place: str) -> float:
    try:
        if isinstance(value, str) and asked.kind is FieldKind.WALLTIME:
            return parse_walltime(value).total_seconds()
        if isinstance(value, str) and asked.kind is FieldKind.MEMORY:
            return parse_memory(value)
        found = math.nan if isinstance(value, bool) else float(value)
    except (BadInput, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {value!r} is not an amount: {error}") from error
    if not math.isfinite(found):
        raise ConfigError(f"{place}: {value!r} is not an amount.")
    return found


def _tidy(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
