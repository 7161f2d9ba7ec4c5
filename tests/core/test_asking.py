"""A login node's questions as a page may show them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.core.asking import (
    MOST_PROMPTS,
    PASSWORD_PROMPT,
    PROMPT_LIMIT,
    WORDS_LIMIT,
    Prompt,
    Question,
    filled,
    merged,
    read_question,
    tidy,
)
from batchhub.core.errors import BadInput

PROMPTS = st.lists(st.tuples(st.text(max_size=300), st.booleans()), max_size=MOST_PROMPTS)


@settings(max_examples=40)
@given(st.text(), st.text(), PROMPTS)
def test_what_is_shown_is_bounded_and_printable(title: str, words: str, prompts: list[tuple[str, bool]]) -> None:
    question = read_question(title, words, prompts)
    assert len(question.title) <= PROMPT_LIMIT
    assert len(question.words) <= WORDS_LIMIT
    assert question.title.isprintable()
    assert question.words.replace("\n", "").isprintable()
    assert [prompt.shown for prompt in question.prompts] == [shown for _, shown in prompts]
    assert all(prompt.text.isprintable() and 0 < len(prompt.text) <= PROMPT_LIMIT for prompt in question.prompts)


@given(PROMPTS, st.text(min_size=1), st.booleans())
def test_the_password_goes_to_one_hidden_prompt_at_most(
    prompts: list[tuple[str, bool]], password: str, has: bool
) -> None:
    question = read_question("", "", prompts)
    known = filled(question, password if has else None, PASSWORD_PROMPT)
    given_away = [prompt for prompt, answer in zip(question.prompts, known, strict=True) if answer is not None]
    assert len(given_away) <= (1 if has else 0)
    assert not any(prompt.shown for prompt in given_away)
    rest = [str(index) for index in range(known.count(None))]
    assert [answer for answer in merged(known, rest) if answer != password or answer in rest] == rest


@pytest.mark.parametrize(
    "text",
    [
        "Password: ",
        "password for ann@hpc:",
        "Kennwort:",
        "Passwort: ",
        "Mot de passe :",
        "Contraseña: ",
        "密码:",
        "UNIX Password",
        "Пароль: ",
    ],
)
def test_prompts_for_the_password(text: str) -> None:
    assert filled(Question("", "", (Prompt(text),)), "x", PASSWORD_PROMPT) == ("x",)


@pytest.mark.parametrize(
    "text",
    [
        "Verification code: ",
        "One-time password (OATH) for `ann': ",
        "Enter PASSCODE: ",
        "OTP password",
        "New password: ",
        "Retype new password: ",
        "Password & verification code: ",
        "PIN: ",
        "Passcode or option (1-3): ",
        "Duo two-factor login for ann",
        "",
    ],
)
def test_prompts_for_something_else(text: str) -> None:
    assert filled(Question("", "", (Prompt(text),)), "x", PASSWORD_PROMPT) == (None,)


def test_too_many_prompts() -> None:
    with pytest.raises(BadInput, match="9 things"):
        read_question("", "", [("a", True)] * (MOST_PROMPTS + 1))


def test_lines() -> None:
    assert tidy("a\r\nb\n\n\n\nc\td ", 100, lines=True) == "a\nb\n\nc d"
    assert tidy("a\nb", 100) == "ab"
    assert tidy("abcdef", 4) == "abc…"


def test_answers_that_do_not_fit() -> None:
    for answers in ([], ["1", "2"]):
        with pytest.raises(BadInput, match="Every line"):
            merged((None, "x"), answers)
