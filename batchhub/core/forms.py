"""The spawn form as values: what a profile asks, and the check of what came back.

A field's name is either one of :data:`STANDARD` (they become resources of the job) or the site's own (it becomes an entry of the
template's ``options``). Checking never trusts the page: every value is read from text, and all errors are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from batchhub.core.errors import BadInput, ConfigError, InvalidForm
from batchhub.core.limits import format_memory, format_walltime, over_limits, parse_memory, parse_walltime
from batchhub.core.model import NO_OPTIONS, OptionValue, QueueInfo
from batchhub.core.walltime import TimeUp

STANDARD = ("partition", "cores", "memory", "walltime", "gpus", "gpu_type", "account", "qos", "reservation")
"""Field names with a meaning for the job itself, in the order they are shown."""

DEFAULT_TEXT_PATTERN = r"[A-Za-z0-9_.,:=/@+%-]*"
MAX_TEXT = 256
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Control characters, line ends, and the marks that turn the direction of text: a script would read otherwise than it runs.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_OFF = frozenset({"", "0", "off", "false", "no"})


class FieldKind(StrEnum):
    """What a field holds. WALLTIME is kept as whole seconds, MEMORY as MiB."""

    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"
    CHECKBOX = "checkbox"
    WALLTIME = "walltime"
    MEMORY = "memory"


AMOUNTS: Mapping[str, FieldKind] = MappingProxyType(
    {
        "cores": FieldKind.NUMBER,
        "memory": FieldKind.MEMORY,
        "walltime": FieldKind.WALLTIME,
        "gpus": FieldKind.NUMBER,
    }
)
"""Standard fields that are kept as whole numbers, asked as this kind or as a CHOICE of such amounts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of a CHOICE field. Of an amount (:data:`AMOUNTS`) ``value`` is the kept number as text."""

    value: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One question of a form.

    ``minimum`` and ``maximum`` are in the field's kept unit (seconds for WALLTIME, MiB for MEMORY). ``whole`` demands an integer of a
    NUMBER. ``pattern`` must match the whole of a TEXT value. ``default`` is in the kept unit too.
    """

    name: str
    kind: FieldKind
    label: str = ""
    help: str = ""
    default: OptionValue | None = None
    choices: tuple[Choice, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    whole: bool = True
    pattern: str = DEFAULT_TEXT_PATTERN
    max_length: int = MAX_TEXT
    required: bool = False

    def shown(self, value: OptionValue | None) -> str:
        """A kept value as the page shows it."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "on" if value else ""
        if self.kind is FieldKind.WALLTIME:
            return format_walltime(timedelta(seconds=float(value)), exact=True)
        if self.kind is FieldKind.MEMORY:
            return format_memory(int(value))
        return str(value)


@dataclass(frozen=True, slots=True)
class Profile:
    """A thing people can start: an application on a cluster, the questions its form asks, and what is fixed.

    ``fixed`` holds values that are not asked for. ``prologue`` and ``epilogue`` are the admin's shell text; ``environment`` is exported in
    the job, ``arguments`` are added to the application's command. ``application`` names an application definition. ``at_most`` servers of it may
    live at a time, ``at_most_each`` of one person (0: no limit). ``time_up`` is about the end of its jobs' time. ``idle_timeout`` is how long one may be without use, ``max_lifetime`` how long its job may run before
    the hub ends it, in seconds (0: no limit, ``None``: the site's).
    """

    name: str
    cluster: str
    application: str = "jupyterlab"
    title: str = ""
    description: str = ""
    fields: tuple[Field, ...] = ()
    fixed: Mapping[str, OptionValue] = field(default_factory=lambda: NO_OPTIONS)
    prologue: str = ""
    epilogue: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    directives: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    at_most: int = 0
    at_most_each: int = 0
    time_up: TimeUp = field(default_factory=TimeUp)
    idle_timeout: float | None = None
    max_lifetime: float | None = None


def check_definition(asked: Field, where: str) -> None:
    """Refuse a field that could never be answered. Raises ConfigError naming the profile and the field."""
    place = f"{where}, field {asked.name!r}"
    if not _FIELD_NAME.fullmatch(asked.name):
        raise ConfigError(f"{place}: a field's name is lower-case letters, digits and '_', a letter first.")
    _check_kind(asked, place)
    if asked.kind is FieldKind.CHOICE and not asked.choices and asked.name != "partition":
        raise ConfigError(f"{place}: a choice needs 'choices'.")
    if asked.minimum is not None and asked.maximum is not None and asked.minimum > asked.maximum:
        raise ConfigError(f"{place}: minimum {asked.minimum} is above maximum {asked.maximum}.")
    if asked.max_length < 1:
        raise ConfigError(f"{place}: max_length {asked.max_length} lets nothing in.")
    try:
        re.compile(asked.pattern)
    except re.error as error:
        raise ConfigError(f"{place}: pattern {asked.pattern!r} is not a regular expression: {error}.") from error
    for choice in asked.choices:
        _must_pass(asked, choice.value, f"{place}: choice {choice.value!r} could never be chosen")
    if asked.default is not None and asked.kind is not FieldKind.CHECKBOX:
        _must_pass(asked, asked.shown(asked.default), f"{place}: the default does not pass the field's own check")


def _check_kind(asked: Field, place: str) -> None:
    """The job's own fields mean something: an amount asked as free text would reach the scheduler unread."""
    if asked.name not in STANDARD:
        return
    natural = AMOUNTS.get(asked.name)
    fitting = {natural, FieldKind.CHOICE} if natural else {FieldKind.TEXT, FieldKind.CHOICE}
    if asked.kind not in fitting:
        raise ConfigError(f"{place}: kind {asked.kind.value!r} does not fit; {' or '.join(sorted(fitting))} does.")
    if natural is FieldKind.NUMBER and not asked.whole:
        raise ConfigError(f"{place}: 'whole' must be true, the scheduler gives no part of one.")


def _must_pass(asked: Field, text: str, words: str) -> None:
    try:
        found = read(asked, text)
    except BadInput as error:
        raise ConfigError(f"{words}: {error}") from error
    if found is None and text:
        raise ConfigError(f"{words}: it is empty.")


def with_queues(profile: Profile, queues: Sequence[QueueInfo]) -> Profile:
    """The profile with its partition field filled from what the cluster says it has, if the site listed none itself."""
    open_queues = [queue for queue in queues if queue.open]
    if not open_queues:
        return profile
    default = next((queue.name for queue in open_queues if queue.default), open_queues[0].name)

    def fill(asked: Field) -> Field:
        if asked.name != "partition" or asked.choices:
            return asked
        choices = tuple(Choice(queue.name, _queue_label(queue)) for queue in open_queues)
        return replace(asked, kind=FieldKind.CHOICE, choices=choices, default=asked.default or default)

    return replace(profile, fields=tuple(fill(asked) for asked in profile.fields))


def check(
    profile: Profile, raw: Mapping[str, Sequence[str]], queues: Iterable[QueueInfo] = ()
) -> dict[str, OptionValue]:
    """Read a submitted form: field name -> checked value, the fixed ones included.

    Empty optional fields are left out, so that the scheduler's default applies. Raises InvalidForm with every bad field; the errors
    that no field is to blame for stand under the empty name.
    """
    values: dict[str, OptionValue] = {}
    errors: dict[str, str] = {}
    for asked in profile.fields:
        given = raw.get(asked.name, ())
        try:
            value = read(asked, given[-1] if given else "")
        except BadInput as error:
            errors[asked.name] = str(error)
        else:
            if value is not None:
                values[asked.name] = value
    known = {asked.name for asked in profile.fields}
    values.update({name: value for name, value in profile.fixed.items() if name not in known})
    # Which limits hold is known only if the partition is: a refused one must not be judged by the default's.
    queue = None if "partition" in errors else _queue_of(values.get("partition"), queues)
    if queue is not None:
        for name, text in over_limits(queue, values).items():
            if name in known:
                errors.setdefault(name, text)
            else:
                errors[""] = f"{errors.get('', '')} {text}".strip()
    if errors:
        raise InvalidForm(errors)
    return values


def _queue_of(partition: OptionValue | None, queues: Iterable[QueueInfo]) -> QueueInfo | None:
    """The queue a job goes to: the one that was chosen, else the cluster's default."""
    if partition is None:
        return next((queue for queue in queues if queue.default), None)
    return next((queue for queue in queues if queue.name == partition), None)


def _queue_label(queue: QueueInfo) -> str:
    facts = []
    if queue.max_walltime is not None:
        facts.append(f"up to {format_walltime(queue.max_walltime)}")
    if queue.max_cores is not None:
        facts.append(f"{queue.max_cores} cores a node")
    if queue.max_gpus:
        facts.append(f"{queue.max_gpus} GPUs")
    return f"{queue.name} ({', '.join(facts)})" if facts else queue.name


def read(asked: Field, text: str) -> OptionValue | None:
    """One answer as typed, in the field's kept unit; ``None`` for an empty optional one. Raises BadInput."""
    if asked.kind is FieldKind.CHECKBOX:
        return text.strip().lower() not in _OFF
    if _CONTROL.search(text):
        raise BadInput("Control characters and line breaks are not allowed here.")
    text = text.strip()
    if not text:
        if asked.required or (asked.kind is FieldKind.CHOICE and asked.choices):
            raise BadInput("This is needed.")
        return None
    if len(text) > asked.max_length:
        raise BadInput(f"At most {asked.max_length} characters; these are {len(text)}.")
    if asked.kind is FieldKind.CHOICE:
        return _read_choice(asked, text)
    if asked.kind is FieldKind.TEXT:
        if not re.fullmatch(asked.pattern, text):
            raise BadInput(f"{text[:40]!r} does not have the expected form ({asked.pattern}).")
        return text
    return _read_amount(asked, text)


def _read_choice(asked: Field, text: str) -> OptionValue:
    allowed = {choice.value for choice in asked.choices}
    natural = AMOUNTS.get(asked.name)
    if not allowed:
        if not re.fullmatch(DEFAULT_TEXT_PATTERN, text):
            raise BadInput(f"{text[:40]!r} is not a name: letters, digits and _.,:=/@+%- are allowed.")
        return text
    if natural is None and text in allowed:
        return text
    if natural is not None:
        if text in allowed and re.fullmatch(r"[0-9]{1,12}", text):
            return int(text)
        with suppress(BadInput):  # an address or a program may say 8h where the page says 28800
            value = _read_amount(Field(asked.name, natural), text)
            if str(value) in allowed:
                return value
    offered = ", ".join(choice.label or choice.value for choice in asked.choices[:20])
    raise BadInput(f"{text[:40]!r} is not offered; choose one of {offered}.")


def _read_amount(asked: Field, text: str) -> int | float:
    value: int | float
    if asked.kind is FieldKind.WALLTIME:
        value = int(parse_walltime(text).total_seconds())
    elif asked.kind is FieldKind.MEMORY:
        value = parse_memory(text)
    else:
        value = _read_number(text, whole=asked.whole)
    if asked.minimum is not None and value < asked.minimum:
        raise BadInput(f"At least {asked.shown(_tidy(asked.minimum))}; {asked.shown(value)} is too little.")
    if asked.maximum is not None and value > asked.maximum:
        raise BadInput(f"At most {asked.shown(_tidy(asked.maximum))}; {asked.shown(value)} is too much.")
    return value


def _read_number(text: str, *, whole: bool) -> int | float:
    if re.fullmatch(r"-?[0-9]{1,12}", text):
        return int(text)
    if not whole and re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    raise BadInput(f"{text[:40]!r} is not a {'whole ' if whole else ''}number.")


def _tidy(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
