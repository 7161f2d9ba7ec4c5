"""Places values in shell text so that each stays one word, whatever it holds and wherever an author put it.

A template marks every value with two control characters (:func:`mark`); values cannot hold any. :func:`place` then reads the finished
text as bash would and writes each value as its surroundings need: quoted on its own, escaped inside ``"…"`` or ``'…'``, and only of
plain characters where no quoting is safe: in a scheduler's directive, a substitution, a here-document, arithmetic. Text that an
administrator vouches for is marked as trusted and copied untouched.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from batchhub.core.errors import TemplateProblem

OPEN, CLOSE = "\x02", "\x03"
RAW_OPEN, RAW_CLOSE = "\x04", "\x05"
CHECKED_OPEN = "\x06"
"""Begins a value that its own field's pattern has made safe for a directive already."""

MARKS = frozenset(OPEN + CLOSE + RAW_OPEN + RAW_CLOSE + CHECKED_OPEN)
PLAIN = re.compile(r"[A-Za-z0-9_.,:=/@+%-]*")
"""What may stand anywhere: no space, quote, glob, expansion or separator in any shell or scheduler."""

_DIRECTIVE = re.compile(r"#[A-Z]")
_HEREDOC = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([A-Za-z0-9_.]+))")
_CASE = re.compile(r"case\b")
_WORD_START = frozenset(" \t\n;&|()")


class RawText(str):
    """Shell text an administrator vouches for; it is copied untouched."""

    __slots__ = ()


class CheckedText(str):
    """A value whose own pattern allows more than :data:`PLAIN`, and is still safe in a directive."""

    __slots__ = ()


def mark(value: str) -> str:
    """A value on its way into a template's text."""
    return (CHECKED_OPEN if isinstance(value, CheckedText) else OPEN) + strip_marks(value) + CLOSE


def mark_raw(text: str) -> str:
    """Trusted text on its way."""
    return RAW_OPEN + strip_marks(text) + RAW_CLOSE


def strip_marks(text: str) -> str:
    """A value that went through a block or a filter, without the marks it got there."""
    return "".join(c for c in text if c not in MARKS) if MARKS.intersection(text) else text


def place(text: str, template: str) -> str:
    """The text with every marked value written as its place needs. Raises TemplateProblem naming template, line and value."""
    return _Placer(text, template).run()


class _Placer:
    """A reader of bash text that knows just enough: comments, quotes, substitutions, here-documents.

    ``stack`` holds what encloses the reader's position: ``'"'``, ``"'"``, ``"$'"``, ``"`"``, ``"#"``, ``"("`` ``")"``-closed substitution,
    ``"{"`` ``"}"``-closed expansion. Where it is unsure it asks for plain values, which are safe everywhere.
    """

    def __init__(self, text: str, template: str) -> None:
        self.text, self.template = text, template
        self.at = 0
        self.out: list[str] = []
        self.stack: list[str] = []
        self.line = 1
        self.line_start = 0
        self.heredocs: list[tuple[str, bool]] = []
        self.odd_value = ""
        self.unsure = False

    def run(self) -> str:
        while self.at < len(self.text):
            self.step(self.text[self.at])
        if self.odd_value and self.stack and self.stack != ["#"]:
            raise TemplateProblem(
                f"{self.template}: its quotes do not seem to balance, so {self.odd_value[:60]!r} cannot be placed safely."
            )
        return "".join(self.out)

    @property
    def top(self) -> str:
        return self.stack[-1] if self.stack else ""

    def step(self, char: str) -> None:
        if char in {OPEN, CHECKED_OPEN}:
            end = self.text.index(CLOSE, self.at)
            self.value(self.text[self.at + 1 : end], char == CHECKED_OPEN)
            self.at = end + 1
        elif char == RAW_OPEN:
            end = self.text.index(RAW_CLOSE, self.at)
            raw = self.text[self.at + 1 : end]
            if "\n" in raw and self.top == "#":
                self.stack.pop()
            self.take(raw)
            self.at = end + 1
        elif char == "\n":
            self.newline()
        else:
            self.shell(char)

    def take(self, text: str) -> None:
        self.out.append(text)

    def emit(self, count: int = 1) -> None:
        self.take(self.text[self.at : self.at + count])
        self.at += count

    def newline(self) -> None:
        if self.top == "#":
            self.stack.pop()
        self.emit()
        self.line += 1
        self.line_start = self.at
        while self.heredocs:
            self.heredoc_body(*self.heredocs.pop(0))

    def heredoc_body(self, word: str, tabs: bool) -> None:
        """Copy lines up to the delimiter; values must be plain there, and not make up the delimiter."""
        while self.at < len(self.text):
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            row = self.text[self.at : end]
            shown = strip_marks(row)
            last = (shown.lstrip("\t") if tabs else shown) == word
            if last and MARKS.intersection(row):
                self.problem(shown, "would end the here-document")
            for piece in _pieces(row):
                if piece[:1] in {OPEN, CHECKED_OPEN}:
                    self.plain(piece[1:-1], "in a here-document")
                self.take(strip_marks(piece))
            self.at = end
            if self.at < len(self.text):
                self.emit()
                self.line += 1
                self.line_start = self.at
            if last:
                return

    # ------------------------------------------------------------ shell text

    def shell(self, char: str) -> None:
        top = self.top
        if top == "#":
            self.emit()
        elif top == "'":
            if char == "'":
                self.stack.pop()
            self.emit()
        elif char == "\\":
            self.backslash()
        elif top == "$'":
            if char == "'":
                self.stack.pop()
            self.emit()
        else:
            self.live(char, top)

    def backslash(self) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        if after in {"", "\n"}:
            self.emit()
            if after and self.top != "#":
                self.emit()
                self.line += 1
            return
        self.emit(1 if after in MARKS else 2)

    def live(self, char: str, top: str) -> None:
        """Where ``$``, quotes and comments mean something."""
        two = self.text[self.at : self.at + 2]
        if two in {"$(", "${"}:
            self.stack.append(two[1])
            self.emit(2)
        elif char in {'"', "`"}:
            self.stack.pop() if top == char else self.stack.append(char)
            self.emit()
        elif top == '"':
            self.emit()
        elif char == "'" or two == "$'":
            self.stack.append(two if two == "$'" else "'")
            self.emit(len(self.stack[-1]))
        elif (top == "(" and char == ")") or (top == "{" and char == "}"):
            self.stack.pop()
            self.emit()
        elif (char == "(" and (top == "(" or two == "((")) or (char == "{" and top == "{"):
            self.stack.append(char)
            self.emit()
        elif char == "#" and top != "{" and self.before() in _WORD_START:
            self.stack.append("#")
            self.emit()
        elif two == "<<":
            self.heredoc()
        elif top == "(" and char == "c" and _CASE.match(self.text, self.at):
            self.unsure = True
            self.emit()
        else:
            self.emit()

    def heredoc(self) -> None:
        if self.text[self.at : self.at + 3] == "<<<":
            self.emit(3)
            return
        found = _HEREDOC.match(self.text, self.at)
        if found is None:
            self.emit(2)
            return
        if not self.stack:
            self.heredocs.append((found[2] or found[3] or found[4], bool(found[1])))
        self.emit(len(found[0]))

    def before(self) -> str:
        return self.text[self.at - 1] if self.at else "\n"

    # ------------------------------------------------------------ values

    def value(self, value: str, checked: bool) -> None:
        before = self.before()
        if before == "$" and self.top not in {"'", "#"}:
            self.problem(value, "follows a '$', where the shell would read it as a name")
        if self.top == "#":
            self.comment(value, checked)
        elif not self.stack and before != "\\":
            self.odd(value)
            self.take(shlex.quote(value))
        elif self.stack == ['"'] and before != "\\":
            self.odd(value)
            self.take(re.sub(r'([\\$`"])', r"\\\1", value))
        elif self.stack == ["'"]:
            self.odd(value)
            self.take(value.replace("'", "'\"'\"'"))
        else:
            self.plain(value, "inside a substitution or after a backslash")
            self.take(value)

    def comment(self, value: str, checked: bool) -> None:
        """In a remark anything may stand (it is one line); in a directive only what no scheduler reads as more than one value."""
        start = self.text.rfind("\n", 0, self.at) + 1
        row = strip_marks(self.text[start : self.at + 1]).lstrip()
        if not checked and (not row.startswith("#") or _DIRECTIVE.match(row) or row == "#"):
            self.plain(value, "in a scheduler's directive or a comment")
        self.take(value)

    def odd(self, value: str) -> None:
        if not PLAIN.fullmatch(value):
            if self.unsure:
                self.problem(value, "comes after a 'case' inside a substitution, whose end cannot be told")
            self.odd_value = self.odd_value or value

    def plain(self, value: str, where: str) -> None:
        if not PLAIN.fullmatch(value):
            self.problem(value, f"may hold only letters, digits and _.,:=/@+%- {where}")

    def problem(self, value: str, why: str) -> None:
        raise TemplateProblem(f"{self.template}, line {self.line} of the script: the value {value[:60]!r} {why}.")


def _pieces(row: str) -> Iterator[str]:
    """The marked values of a line (with their marks) and what is between them."""
    return iter(re.split(rf"([{OPEN}{CHECKED_OPEN}][^{CLOSE}]*{CLOSE})", row))
