"""Plain tables (TOML, or dicts in the config file) into frozen values, strictly: a misspelt key is an error that suggests the right one."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from batchhub.core.errors import ConfigError

T = TypeVar("T")


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """``; did you mean 'host'?``, or the list of what is known."""
    names = sorted(known)
    plain = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), plain, n=1)
    return f"did you mean {plain[close[0]]!r}?" if close else f"known: {', '.join(names)}."


def check_keys(table: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    """Raises ConfigError for a key that is not known."""
    names = set(known)
    for key in table:
        if key not in names:
            raise ConfigError(f"{where}: unknown setting {key!r}; {suggest(str(key), names)}")


def read(kind: type[T], table: object, where: str) -> T:
    """A frozen dataclass from a table whose keys are its fields. Raises ConfigError naming the place, the value and what would be right."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: a table is expected, not {_show(table)}.")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    check_keys(table, fields, where)
    hints = typing.get_type_hints(kind)
    given = {name: _value(hints[name], value, f"{where}.{name}") for name, value in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise ConfigError(f"{where}: {name!r} is needed.")
    try:
        return kind(**given)
    except ConfigError as error:
        # A table within another does not know whose it is.
        own = str(error)
        raise ConfigError(own if own.startswith((where, "scheduler_options")) else f"{where}: {own}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in {typing.Union, types.UnionType}:
        return _union(hint, value, where)
    if origin is tuple:
        return _tuple(hint, value, where)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{where}: {_show(value)} is not one of {', '.join(map(repr, allowed))}.")
        return value
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: a table is expected, not {_show(value)}.")
        inner = typing.get_args(hint)[1]
        return {str(key): _value(inner, item, f"{where}.{key}") for key, item in value.items()}
    return _plain(hint, value, where)


def _union(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint)
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _value(option, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    inner = typing.get_args(hint)
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: a list is expected, not {_show(value)}.")
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_value(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if len(inner) != len(value):
        raise ConfigError(f"{where}: {len(inner)} values are expected, not {len(value)}.")
    return tuple(
        _value(kind, item, f"{where}[{number}]") for number, (kind, item) in enumerate(zip(inner, value, strict=True))
    )


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is Any or hint is object:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else read(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise ConfigError(
                f"{where}: {_show(value)} is not one of {', '.join(repr(item.value) for item in hint)}."
            ) from None
    kind = getattr(hint, "__supertype__", hint)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind in {int, float} and isinstance(value, bool)):
        raise ConfigError(f"{where}: {_show(value)} is not of type {kind.__name__}.")
    return value
