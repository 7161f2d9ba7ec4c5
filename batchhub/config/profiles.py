"""Profiles from tables: what people can start, and what its form asks.

A table's keys are those of :class:`batchhub.core.forms.Profile`; ``fields`` is a table of tables, one for each question, with short cuts for
the standard names (``cores = {max = 16}``), because every site asks these in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from batchhub.config.tables import check_keys, read
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.forms import STANDARD, Choice, Field, FieldKind, Profile, check_definition
from batchhub.core.limits import parse_memory, parse_walltime
from batchhub.core.model import OptionValue

_STANDARD_FIELDS: dict[str, Field] = {
    "partition": Field("partition", FieldKind.CHOICE, "Partition"),
    "cores": Field("cores", FieldKind.NUMBER, "Cores", default=1, minimum=1, required=True),
    "memory": Field("memory", FieldKind.MEMORY, "Memory", "For example 4G or 512M.", default=2048, minimum=128),
    "walltime": Field(
        "walltime",
        FieldKind.WALLTIME,
        "Time",
        "For example 8h, 90m or 1d 12h.",
        default=3600,
        minimum=60,
        required=True,
    ),
    "gpus": Field("gpus", FieldKind.NUMBER, "GPUs", default=0, minimum=0),
    "gpu_type": Field("gpu_type", FieldKind.TEXT, "GPU type"),
    "account": Field("account", FieldKind.TEXT, "Account", "The project that the time is charged to."),
    "qos": Field("qos", FieldKind.TEXT, "QOS"),
    "reservation": Field("reservation", FieldKind.TEXT, "Reservation"),
}

_FIELD_KEYS = (
    "kind",
    "label",
    "help",
    "default",
    "choices",
    "min",
    "max",
    "whole",
    "pattern",
    "max_length",
    "required",
)
_PROFILE_KEYS = tuple(field.name for field in dataclass_fields(Profile))


def read_profiles(
    tables: Sequence[Mapping[str, Any]], clusters: Sequence[str], applications: Sequence[str]
) -> tuple[Profile, ...]:
    """All profiles. Raises ConfigError naming profile, field, value and what would be right."""
    found: list[Profile] = []
    for number, table in enumerate(tables):
        if not isinstance(table, Mapping):
            raise ConfigError(f"profiles[{number}]: a table is expected.")
        profile = _profile(table, f"profile {table.get('name', f'number {number + 1}')!r}", clusters)
        if any(other.name == profile.name for other in found):
            raise ConfigError(f"profile {profile.name!r} is there twice.")
        if profile.cluster not in clusters:
            raise ConfigError(
                f"profile {profile.name!r}: cluster {profile.cluster!r} is not defined; there are: {', '.join(clusters)}."
            )
        if profile.application not in applications:
            raise ConfigError(
                f"profile {profile.name!r}: application {profile.application!r} is not defined; there are: {', '.join(applications)}."
            )
        found.append(profile)
    return tuple(found)


def _profile(table: Mapping[str, Any], where: str, clusters: Sequence[str]) -> Profile:
    check_keys(table, _PROFILE_KEYS, where)
    plain = {key: value for key, value in table.items() if key not in {"fields", "fixed"}}
    if len(clusters) == 1:
        plain.setdefault("cluster", clusters[0])
    profile = read(Profile, plain, where)
    asked = table.get("fields", {name: {} for name in ("partition", "cores", "memory", "walltime")})
    if not isinstance(asked, Mapping):
        raise ConfigError(f"{where}: 'fields' is a table of tables.")
    questions = tuple(_field(name, value, where) for name, value in asked.items())
    order = {name: number for number, name in enumerate(STANDARD)}
    questions = tuple(sorted(questions, key=lambda field: order.get(field.name, len(order))))
    fixed = {
        name: _kept(_STANDARD_FIELDS.get(name), value, f"{where}, fixed {name!r}")
        for name, value in dict(table.get("fixed", {})).items()
    }
    return replace(profile, fields=questions, fixed=fixed, title=profile.title or profile.name)


def _field(name: str, table: Any, where: str) -> Field:
    place = f"{where}, field {name!r}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: a table is expected, such as {{max = 16}}.")
    check_keys(table, _FIELD_KEYS, place)
    base = _STANDARD_FIELDS.get(name, Field(name, FieldKind.TEXT, name.replace("_", " ").capitalize()))
    kind = _kind(table, base, place)
    given: dict[str, Any] = {
        key: table[key] for key in ("label", "help", "whole", "pattern", "max_length", "required") if key in table
    }
    base = replace(base, kind=kind)
    given.update(
        {
            slot: _amount(base, table[key], place)
            for key, slot in (("min", "minimum"), ("max", "maximum"))
            if key in table
        }
    )
    if "default" in table:
        given["default"] = _kept(base, table["default"], f"{place}, default")
    if "choices" in table:
        given["choices"] = _choices(table["choices"], place)
        if "default" not in table:
            given["default"] = given["choices"][0].value
    made = replace(base, **given)
    # A smaller maximum than our own default is the site's word; its default is then the maximum.
    if (
        "default" not in table
        and made.maximum is not None
        and isinstance(made.default, (int, float))
        and made.default > made.maximum
    ):
        made = replace(made, default=int(made.maximum))
    check_definition(made, where)
    return made


def _kind(table: Mapping[str, Any], base: Field, place: str) -> FieldKind:
    if "kind" not in table:
        return FieldKind.CHOICE if "choices" in table else base.kind
    try:
        return FieldKind(table["kind"])
    except ValueError:
        raise ConfigError(f"{place}: kind {table['kind']!r} is not one of {', '.join(FieldKind)}.") from None


def _choices(value: Any, place: str) -> tuple[Choice, ...]:
    if isinstance(value, Mapping):
        return tuple(Choice(str(key), str(label)) for key, label in value.items())
    if isinstance(value, (list, tuple)) and value:
        return tuple(Choice(str(item), str(item)) for item in value)
    raise ConfigError(f"{place}: 'choices' is a list of values, or a table of value = label.")


def _kept(asked: Field | None, value: Any, place: str) -> OptionValue:
    """A value of the configuration in the field's kept unit: ``"8h"`` is seconds, ``"4G"`` is MiB."""
    if asked is not None and isinstance(value, str) and asked.kind in {FieldKind.WALLTIME, FieldKind.MEMORY}:
        return int(_amount(asked, value, place))
    if not isinstance(value, (str, int, float, bool)):
        raise ConfigError(f"{place}: {value!r} is not a text, number or true/false.")
    return value


def _amount(asked: Field, value: Any, place: str) -> float:
    try:
        if isinstance(value, str) and asked.kind is FieldKind.WALLTIME:
            return parse_walltime(value).total_seconds()
        if isinstance(value, str) and asked.kind is FieldKind.MEMORY:
            return parse_memory(value)
        return float(value)
    except (BadInput, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {value!r} is not an amount: {error}") from error
