"""What is added to one job for one person: variables of its environment, and files in its directory that only they can read.

A site's hooks answer with such additions, and its configuration describes some. Values may be secrets, so they are never printed, never stored,
and made anew whenever a job's directory is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from batchhub.core.errors import BadInput

MOST_VARIABLES = 200
"""Variables that may be added to one job."""
VALUE_LIMIT = 32 * 1024
"""Bytes of one variable's value; Linux takes 128 KiB for one with its name (execve(2)), and all of them have to fit in the stack's quarter."""
MOST_FILES = 50
"""Files that may be added to one job."""
FILE_LIMIT = 256 * 1024
"""Bytes of one file."""
ALL_LIMIT = 1024 * 1024
"""Bytes of everything that is added to one job."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

OWN_PREFIXES = ("BATCHHUB_", "JUPYTERHUB_")
"""Variables that begin so are the hub's to set."""
OWN_VARIABLES = frozenset({"JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE", "BASH_ENV", "ENV", "IFS", "SHELLOPTS", "BASHOPTS"})
"""Others that are not for additions: by the first two the application knows its secret, the others change what the job's script means."""

LOADED_VARIABLES = frozenset({"LD_PRELOAD", "LD_AUDIT"})
"""They load code into every program that is started: for a prologue, the administrator's own shell text, and no made value."""

NOTHING: Mapping[str, str] = MappingProxyType({})
NO_FILES: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Additions:
    """``environment``: name -> value. ``files``: name, without a directory -> content. Raises BadInput for what could not be carried out."""

    environment: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    files: Mapping[str, bytes] = field(default_factory=lambda: NO_FILES, repr=False)

    def __post_init__(self) -> None:
        """Check, and keep copies that nobody changes afterwards."""
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))
        if len(self.environment) > MOST_VARIABLES or len(self.files) > MOST_FILES:
            raise BadInput(f"At most {MOST_VARIABLES} variables and {MOST_FILES} files can be added to a job.")
        for name, value in self.environment.items():
            _check_variable(name, value)
        for name, content in self.files.items():
            _check_file(name, content)
        if self._size() > ALL_LIMIT:
            raise BadInput(f"What is added to the job is longer than {ALL_LIMIT} bytes in all.")

    def _size(self) -> int:
        return sum(len(value.encode()) for value in self.environment.values()) + sum(map(len, self.files.values()))

    def __bool__(self) -> bool:
        """Whether anything is added."""
        return bool(self.environment or self.files)


NO_ADDITIONS = Additions()


def merged(parts: Iterable[Additions]) -> Additions:
    """All of them together; of two with one name the later one counts. Raises BadInput when that is too much for one job."""
    environment: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in parts:
        environment |= part.environment
        files |= part.files
    return Additions(environment, files)


def read_additions(answer: object) -> Additions:
    """What a hook answered: ``None``, Additions, or ``{"environment": {NAME: text}, "files": {name: text or bytes}}``. Raises BadInput.

    The sentence names what is wrong, and no value: it may be a secret.
    """
    if answer is None:
        return NO_ADDITIONS
    if isinstance(answer, Additions):
        return answer
    if not isinstance(answer, Mapping):
        raise BadInput(f"A mapping with 'environment' and 'files' is expected, not {type(answer).__name__}.")
    unknown = sorted(str(key)[:40] for key in answer if key not in {"environment", "files"})
    if unknown:
        raise BadInput(f"{unknown[0]!r} is neither 'environment' nor 'files'.")
    environment, files = (answer.get(key) or {} for key in ("environment", "files"))
    for key, value in (("environment", environment), ("files", files)):
        if not isinstance(value, Mapping):
            raise BadInput(f"{key}: a mapping is expected, not {type(value).__name__}.")
    return Additions(environment, {name: _content(name, content) for name, content in files.items()})


def _content(name: object, content: object) -> bytes:
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError:
            raise BadInput(f"The file {name!r:.120} is no text that UTF-8 could hold.") from None
    if not isinstance(content, bytes):
        raise BadInput(f"The file {name!r:.120} must be text or bytes, not {type(content).__name__}.")
    return content


def _check_variable(name: object, value: object) -> None:
    if not isinstance(name, str) or _VARIABLE.fullmatch(name) is None:
        raise BadInput(f"{name!r:.120} cannot name a variable: letters, digits and '_', at most 128, no digit first.")
    if name in OWN_VARIABLES or name.startswith(OWN_PREFIXES):
        raise BadInput(f"The variable {name} is the hub's own to set.")
    if name in LOADED_VARIABLES:
        raise BadInput(f"The variable {name} loads code into every program of the job; only a prologue may set it.")
    if not isinstance(value, str):
        raise BadInput(f"The variable {name} must be text, not {type(value).__name__}.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadInput(f"The variable {name} is no text that UTF-8 could hold.") from None
    if "\0" in value or size > VALUE_LIMIT:
        raise BadInput(f"The variable {name} must be at most {VALUE_LIMIT} bytes long and hold no NUL.")


def _check_file(name: object, content: object) -> None:
    if not isinstance(name, str) or _FILE.fullmatch(name) is None:
        raise BadInput(
            f"{name!r:.120} cannot name a file of a job: letters, digits, '_', '-' and '.', at most 100, no '-' or '.' first."
        )
    if not isinstance(content, bytes):
        raise BadInput(f"The file {name} must be bytes, not {type(content).__name__}.")
    if len(content) > FILE_LIMIT:
        raise BadInput(f"The file {name} must be at most {FILE_LIMIT} bytes long.")
