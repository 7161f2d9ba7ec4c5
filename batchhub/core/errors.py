"""The one error tree. Every error holds a sentence for a person, whether trying again may help, and an HTTP status.

Foreign exceptions become ours at the door they come in by, with ``raise … from``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class HubError(Exception):
    """Base of all our errors. ``str(error)`` is a sentence that may be shown to the person concerned."""

    retry: ClassVar[bool] = False
    status: ClassVar[int] = 500


class BadInput(HubError):
    """A value a person or program sent is not acceptable; the sentence names the field, the value and what would be right."""

    status = 400


class InvalidForm(BadInput):
    """A form with one or more bad fields. ``fields`` maps a field's name to its sentence."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in fields.items()))
        self.fields: Mapping[str, str] = MappingProxyType(dict(fields))


class ConfigError(HubError):
    """The configuration is wrong; found at start, never later than first use."""


class TemplateProblem(ConfigError):
    """A job-script template cannot be rendered; the sentence names the template, the line and the variable."""


class Denied(HubError):
    """Signed in or not: this may not be done by this person."""

    status = 403


class SignInAgain(Denied):
    """Their sign-in does not hold any more; their sessions have ended."""


class NotFound(HubError):
    """No such thing."""

    status = 404


class Conflict(HubError):
    """The thing exists already, or is in a state that does not allow what was asked."""

    status = 409


class TooMany(HubError):
    """A limit was reached; trying later may help."""

    retry, status = True, 429


class Unreachable(HubError):
    """A daemon or machine did not answer, or not in a way that can be read; nothing is known about the job."""

    retry, status = True, 503


class SubmitRejected(HubError):
    """The scheduler read the job and said no. The sentence is the scheduler's own words."""

    status = 400


class SubmitAmbiguous(Unreachable):
    """The submit failed in a way that may have created the job: look for it by name before trying again."""


class CommandNotFound(Unreachable):
    """A scheduler command is not installed where the transport looked for it: an installation fault, not the job's."""


class FileMissing(HubError):
    """A file that may well not exist yet does not exist."""

    status = 404


class TunnelError(Unreachable):
    """No byte stream to the compute node could be opened, or it broke."""


class StoreUnavailable(HubError):
    """The database cannot be asked now."""

    retry, status = True, 503


class NotLeading(StoreUnavailable):
    """Another hub leads by now, or none: what only the leader may write was not written."""


class WrongSchema(ConfigError):
    """The database's schema is not the one this version needs."""
