"""Single values from templates: a variable of a job's environment, the text of a file. Sandboxed and strict as job scripts are.

Nothing is quoted here, as nobody knows what reads a file: ``|tojson`` and ``|quote`` (for a shell) are there. But what stands between ``{{`` and ``}}`` may
hold no control character, so that nobody's name or claim adds a line; ``|lines`` lets line breaks and tabs through.

What goes wrong is told without the values, as they may be secrets.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Undefined

from batchhub.core.errors import BadInput, ConfigError
from batchhub.job.sandbox import CONTROL, UNDEFINED, Assembled, Sandbox, hint, unknown_names

STATE = "auth_state"
"""The variable that holds what was kept of a person's sign-in."""

VARIABLES = (
    "account",
    STATE,
    "cluster",
    "directory",
    "files",
    "groups",
    "home",
    "hub_url",
    "options",
    "profile",
    "server_name",
    "username",
)
"""What a value's template sees; docs/environment.md says what each is."""

SOURCE_LIMIT = 256 * 1024
"""Characters of a template."""

_NOT_EVEN_IN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_FAULTS = (jinja2.TemplateError, RecursionError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class _Lines(str):
    """Text of several lines that the template's author wants as it is."""

    __slots__ = ()


class _Refused(ValueError):
    """A sentence of ours about a value, which it does not hold."""


def _lines(value: object) -> _Lines:
    if isinstance(value, Undefined):
        return _Lines(str(value))  # raises
    if not isinstance(value, str):
        raise _Refused(f"|lines is for text, not for a {type(value).__name__}")
    text = value.replace("\r\n", "\n")
    if _NOT_EVEN_IN_LINES.search(text):
        raise _Refused("a value holds a control character other than a line break or a tab")
    return _Lines(text)


def _quote(value: object) -> str:
    return shlex.quote(_finalize(value))


def _finalize(value: object) -> str:
    """What one ``{{ … }}`` puts into the text."""
    if isinstance(value, Undefined):
        return str(value)  # StrictUndefined raises its own sentence here
    if isinstance(value, Assembled | _Lines):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise _Refused(
            f"a {type(value).__name__} was printed as a whole; print its items one by one, or with |join or |tojson"
        )
    text = str(value)
    if CONTROL.search(text):
        raise _Refused("a value holds a line break or another control character; |lines lets line breaks through")
    return text


@dataclass(frozen=True, slots=True)
class ValueTemplate:
    """A template that was read. ``where`` names it in sentences, ``options`` are the form's fields that it asks for by name."""

    where: str
    source: str
    options: frozenset[str]
    uses_state: bool
    template: jinja2.Template

    def render(self, variables: Mapping[str, object]) -> str:
        """Raises BadInput, which holds no value."""
        try:
            return str(self.template.render(variables))
        except _FAULTS as error:
            raise BadInput(f"{self.where}: {self._words(error, variables)}.") from None

    def _words(self, error: Exception, variables: Mapping[str, object]) -> str:
        if isinstance(error, _Refused):
            return str(error)
        found = UNDEFINED.search(str(error)) if isinstance(error, jinja2.UndefinedError) else None
        name = (found[1] or found[2]) if found else ""
        if not name or not re.search(rf"\b{re.escape(name)}\b", self.source):
            return f"the template cannot be rendered ({type(error).__name__})"
        if self.uses_state and not variables.get(STATE):
            return f"it needs {name!r} of your sign-in, of which nothing is kept; sign out and in again"
        return f"there is no {name!r} here"


class ValueTemplates:
    """Reads templates of values."""

    def __init__(self) -> None:
        self._environment = Sandbox(
            undefined=jinja2.StrictUndefined,
            finalize=_finalize,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        known = self._environment.globals
        self._environment.globals = {name: known[name] for name in ("range", "namespace")}
        self._environment.filters |= {"lines": _lines, "quote": _quote}

    def read(self, where: str, source: str) -> ValueTemplate:
        """Raises ConfigError for what no job could be given."""
        if "\0" in source or len(source) > SOURCE_LIMIT:
            raise ConfigError(f"{where}: the text holds a NUL, or is longer than {SOURCE_LIMIT} characters.")
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{where}: the text holds what UTF-8 cannot ({error.reason}).") from error
        try:
            tree = self._environment.parse(source)
            for node in unknown_names(self._environment, tree, VARIABLES):
                word = hint(node.name, VARIABLES)
                raise ConfigError(f"{where}, line {node.lineno}: the variable {node.name!r} is not known{word}.")
            template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{where}, line {error.lineno}: {str(error.message).rstrip('.')}.") from error
        except RecursionError as error:
            raise ConfigError(f"{where}: the template is nested too deeply.") from error
        for load in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise ConfigError(f"{where}, line {load.lineno}: no other template can be loaded here.")
        uses = meta.find_undeclared_variables(tree)
        return ValueTemplate(where, source, _options(tree), STATE in uses, template)

    @staticmethod
    def written_lines(template: ValueTemplate) -> bool:
        """Whether its own text, outside of ``{{ }}`` and ``{% %}``, holds a line break or another control character."""
        tree = template.template.environment.parse(template.source)
        return any(CONTROL.search(data.data) for data in tree.find_all(nodes.TemplateData))


def _options(tree: nodes.Template) -> frozenset[str]:
    """The names in ``options.NAME`` and ``options["NAME"]``, less those that the template asks ``is defined`` or gives a default."""
    found: set[str] = set()
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if name := _option(node):
            found.add(name)
    for guard in tree.find_all((nodes.Test, nodes.Filter)):
        if guard.name in {"defined", "undefined", "default", "d"} and (name := _option(guard.node)):
            found.discard(name)
    return frozenset(found)


def _option(node: nodes.Node | None) -> str:
    if not isinstance(node, nodes.Getattr | nodes.Getitem) or not isinstance(node.node, nodes.Name):
        return ""
    if node.node.name != "options":
        return ""
    if isinstance(node, nodes.Getattr):
        return str(node.attr)
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else ""
