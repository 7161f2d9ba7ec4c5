"""A site's list ``additions`` from tables: who is given which variables and files, checked as far as it can be before anybody starts anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchhub.config.tables import check_keys, read, suggest
from batchhub.core.additions import FILE_LIMIT, Additions
from batchhub.core.customising import FileText, Rule
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.forms import Profile
from batchhub.job.values import ValueTemplate, ValueTemplates


@dataclass(frozen=True, slots=True)
class _Table:
    """The keys of an entry."""

    name: str = ""
    groups: tuple[str, ...] | None = None
    profiles: tuple[str, ...] | None = None
    clusters: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    secret: bool = False


_CONDITIONS = ("groups", "profiles", "clusters", "users")


def read_rules(
    tables: Sequence[Mapping[str, Any]], profiles: Sequence[Profile], clusters: Iterable[str]
) -> tuple[Rule, ...]:
    """All entries, in their order. Raises ConfigError naming entry, key, value and what would be right."""
    if not isinstance(tables, list | tuple):
        raise ConfigError("additions: a list of tables is expected.")
    named = tuple(clusters)
    return tuple(_rule(table, number, profiles, named) for number, table in enumerate(tables))


def _rule(table: Any, number: int, profiles: Sequence[Profile], clusters: Sequence[str]) -> Rule:
    where = f"additions[{number}]"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: a table is expected.")
    found = read(_Table, table, where)
    if not found.name.isprintable() or len(found.name) > 60:
        raise ConfigError(f"{where}: a name is one line of at most 60 characters.")
    where = f"addition {found.name!r}" if found.name else where
    conditions: dict[str, tuple[str, ...]] = {}
    for key in _CONDITIONS:
        names: tuple[str, ...] | None = getattr(found, key)
        if names == ():
            raise ConfigError(f"{where}: {key} is an empty list, which nobody is in; leave it out if all are meant.")
        conditions[key] = names or ()
    for key, known in (("profiles", [profile.name for profile in profiles]), ("clusters", clusters)):
        for name in conditions[key]:
            if name not in known:
                raise ConfigError(f"{where}: {key}: {name!r} is not defined; {suggest(name, known)}")
    if not found.environment and not found.files:
        raise ConfigError(f"{where}: it adds nothing; give it 'environment' or 'files'.")
    files = {str(name): _file(f"{where}, file {name!r:.120}", text) for name, text in found.files.items()}
    rule = Rule(where, **conditions, environment=dict(found.environment), files=files, secret=found.secret)
    _check(rule, profiles)
    return rule


def _file(where: str, table: Any) -> FileText:
    if isinstance(table, str):
        return FileText(table)
    if not isinstance(table, Mapping):
        raise ConfigError(f'{where}: a text is expected, or a table such as {{source = "/etc/batchhub/spark.conf"}}.')
    check_keys(table, ("text", "source", "template"), where)
    if ("text" in table) == ("source" in table):
        raise ConfigError(f"{where}: either 'text' or 'source' says what is in it.")
    made = read(FileText, {"template": "text" in table, **table}, where)
    if "source" in table:
        read_source(where, made.source)
    return made


def read_source(where: str, path: str) -> bytes:
    """A file of the hub's machine that people's files are made from. Raises ConfigError."""
    source = Path(path)
    if not source.is_absolute():
        raise ConfigError(f"{where}: source {path!r} must be an absolute path on the hub's machine.")
    try:
        if not source.is_file():
            raise ConfigError(f"{where}: source {path} is no file.")
        with source.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{where}: source {path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{where}: source {path} is longer than {FILE_LIMIT} bytes.")
    return data


def _check(rule: Rule, profiles: Sequence[Profile]) -> None:
    """Names, templates, and the questions of the forms that they rely on. Raises ConfigError."""
    try:
        Additions(dict.fromkeys(rule.environment, ""), dict.fromkeys(rule.files, b""))
    except BadInput as error:
        raise ConfigError(f"{rule.where}: {error}") from error
    templates = ValueTemplates()
    concerned = [profile for profile in profiles if _concerns(rule, profile)]
    for name, text in rule.environment.items():
        template = templates.read(f"{rule.where}, variable {name}", text)
        _check_options(template, concerned)
        if not rule.secret and not template.uses_state and templates.written_lines(template):
            raise ConfigError(
                f"{rule.where}, variable {name}: it stands in the job's script and must be one line; say secret = true, or make it a file."
            )
    for name, file in rule.files.items():
        where = f"{rule.where}, file {name}"
        if file.template:
            _check_options(templates.read(where, file_text(where, file)), concerned)


def file_text(where: str, file: FileText) -> str:
    """The template of a file. Raises ConfigError."""
    if not file.source:
        return file.text
    try:
        return read_source(where, file.source).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {file.source} is no UTF-8, so it cannot be a template.") from error


def _concerns(rule: Rule, profile: Profile) -> bool:
    return (not rule.profiles or profile.name in rule.profiles) and (
        not rule.clusters or profile.cluster in rule.clusters
    )


def _check_options(template: ValueTemplate, profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        known = {*(asked.name for asked in profile.fields), *profile.fixed}
        for name in sorted(template.options - known):
            offered = suggest(name, known) if known else "its form asks for nothing."
            raise ConfigError(
                f"{template.where}: profile {profile.name!r} has no field {name!r}; {offered} "
                f"'profiles' limits an addition; {{{{ options.{name}|default('') }}}} does without."
            )
