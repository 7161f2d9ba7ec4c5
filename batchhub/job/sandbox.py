"""Jinja as a site's texts get it: sandboxed, strict, with the names of variables known before anything is rendered."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

UNDEFINED = re.compile(r"'([^']{1,80})' is undefined|has no attribute '([^']{1,80})'")
"""How Jinja says that a variable, or an entry of one, is missing."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no value may hold that is placed as one word or line."""


class Assembled(str):
    """The text of a block, a macro or a ``{% set %}``: already a template's own, its values looked at."""

    __slots__ = ()


def assemble(parts: Iterable[str]) -> Assembled:
    """Join what a block made."""
    return Assembled("".join(parts))


class Sandbox(ImmutableSandboxedEnvironment):
    """Joins blocks into text of its own kind."""

    concat = staticmethod(assemble)


def unknown_names(environment: jinja2.Environment, tree: nodes.Template, known: Iterable[str]) -> Sequence[nodes.Name]:
    """The uses, in their order, of variables that are not known. A template may ask ``is defined`` about any."""
    asked = {node.node.name for node in tree.find_all(nodes.Test) if isinstance(node.node, nodes.Name)}
    unknown = meta.find_undeclared_variables(tree) - set(known) - set(environment.globals) - asked
    return [node for node in tree.find_all(nodes.Name) if node.name in unknown]


def hint(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'walltime'?``, or the list of what is known."""
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}" if known else ""
