"""What a login node asks of somebody who signs in there: questions as plain text, bounded, and which of them the typed password answers. Pure.

A question is keyboard-interactive's (RFC 4256): a name, an instruction, and prompts whose answers may be seen or not. All of it is a remote
machine's text. It is shown as text, without control characters, and no more of it than a page should hold.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from batchhub.core.errors import BadInput

MOST_PROMPTS = 8
"""Prompts of one round; a server that wants more is not answered."""
MOST_ROUNDS = 16
"""Rounds of one sign-in, those without a prompt counted."""
PROMPT_LIMIT = 200
"""Characters of a prompt."""
WORDS_LIMIT = 1500
"""Characters of what stands above the prompts."""
ANSWER_LIMIT = 1024
"""Bytes of an answer."""
PASSWORD_PROMPT = re.compile(
    r"(?i)^(?!.*(one.time|otp|oath|token|code|passcode|pin\b|new|retype|again))"
    r".*(pass(word|phrase|wort)|kennwort|mot de passe|contrase|wachtwoord|lozenord|lösenord|senha|hasło|heslo|salasana|adgangskode|парол|密[码碼]|パスワード|암호)"
)
"""Prompts of pam_unix, SSSD and the like, in some languages; not those for a one-time password, or for a new one."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line to fill in. ``shown``: what is typed may be seen."""

    text: str
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is to answer now. ``title`` and ``words`` may be empty."""

    title: str
    words: str
    prompts: tuple[Prompt, ...]


class Held(Protocol):
    """A connection that was let in and is still there. Whoever made it knows what it is good for; it closes by itself if nobody takes it."""

    def close(self) -> None:
        """Nobody wants it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The login node let them in. ``password`` is the one that was typed first, for whoever may use it on."""

    held: Held | None = None
    password: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not. ``why`` is for the log; ``words``, if there are any, for the person: they tell nothing that a stranger may not know."""

    why: str
    words: str = ""


Verdict = Accepted | Refused | Question


class Talk(Protocol):
    """One sign-in at an sshd that has begun. It ends by itself when it takes too long."""

    @property
    def ended(self) -> bool:
        """Whether the connection is gone."""

    def answer(self, answers: Sequence[str]) -> Awaitable[Verdict]:
        """Answer the question that was put last. Raises BadInput for another number of answers, Unreachable."""

    def close(self) -> None:
        """Hang up; harmless when it has ended."""


class Door(Protocol):
    """The sshd of a login node that people can sign in at. Its host key is always checked."""

    @property
    def host(self) -> str:
        """Its name, for log and pages."""

    def knock(self, name: str, password: str, seconds: float) -> Awaitable[tuple[Talk, Verdict]]:
        """Try to sign in; the whole of it may take so long. Nothing is run there, and the connection is closed afterwards.

        Raises Denied for root, BadInput for what is no account's name, Unreachable when nobody could be asked.
        """


class Doors(Protocol):
    """Where login nodes are found; both raise ConfigError."""

    def of_cluster(self, cluster: str) -> Door:
        """The login node of a configured cluster."""

    def of_host(self, host: str, port: int, known_hosts: str) -> Door:
        """Any other."""


def read_question(title: str, words: str, prompts: Sequence[tuple[str, bool]]) -> Question:
    """A server's question as it may be shown. Raises BadInput for more prompts than a page shows."""
    if len(prompts) > MOST_PROMPTS:
        raise BadInput(f"The login node asks {len(prompts)} things at once; at most {MOST_PROMPTS} are answered.")
    lines = tuple(Prompt(tidy(text, PROMPT_LIMIT) or "Answer", shown) for text, shown in prompts)
    return Question(tidy(title, PROMPT_LIMIT), tidy(words, WORDS_LIMIT, lines=True), lines)


def tidy(text: str, limit: int, *, lines: bool = False) -> str:
    """Without what is not printed (control characters, and those that turn the direction of writing), at most ``limit`` characters long."""
    kept = text[: 4 * limit].replace("\r\n", "\n").replace("\t", " ")
    kept = "".join(char for char in kept if char.isprintable() or (lines and char == "\n"))
    kept = re.sub(r"\n{3,}", "\n\n", kept).strip()
    return kept if len(kept) <= limit else kept[: limit - 1].rstrip() + "…"


def filled(question: Question, password: str | None, pattern: re.Pattern[str]) -> tuple[str | None, ...]:
    """The answers that are known: the password, for the first hidden prompt that asks for one. ``None`` where the person is to be asked."""
    answers: list[str | None] = [None] * len(question.prompts)
    for index, prompt in enumerate(question.prompts):
        if password is not None and not prompt.shown and pattern.search(prompt.text):
            answers[index] = password
            break
    return tuple(answers)


def merged(known: Sequence[str | None], given: Sequence[str]) -> list[str]:
    """All answers: those that were known, and the person's in the places that were open. Raises BadInput for another number of them."""
    if len(given) != sum(one is None for one in known):
        raise BadInput("Every line of the question needs an answer.")
    rest = iter(given)
    return [next(rest) if one is None else one for one in known]
