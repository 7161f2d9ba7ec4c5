"""Templates of single values: strict, sandboxed, and silent about what they were given."""

import json
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, ConfigError
from batchhub.job.sandbox import CONTROL
from batchhub.job.values import SOURCE_LIMIT, VARIABLES, ValueTemplates

SEEN = {
    **dict.fromkeys(VARIABLES, ""),
    "username": "ann",
    "groups": ["physics", "x y"],
    "options": {"memory": 2048, "gpu": False, "course": "ml-101"},
    "auth_state": {"access_token": "hunter2", "key": "one\r\ntwo\n", "deep": {"hunter3": 1}},
}


def made(source: str, **more: object) -> str:
    return ValueTemplates().read("addition 'x'", source).render({**SEEN, **more})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("{{ username }}/{{ options.memory // 2 }}m {{ options.gpu }}", "ann/1024m false"),
        ("{{ groups|join(',') }} {{ groups|tojson }}", 'physics,x y ["physics", "x y"]'),
        ("{% if 'physics' in groups %}yes{% else %}no{% endif %}", "yes"),
        ("{{ groups[1]|quote }}", "'x y'"),
        ("{% for group in groups %}\n{{ group }}\n{% endfor %}\n", "physics\nx y\n"),
        ("{% set both %}a\nb{% endset %}{{ both }}", "a\nb"),
        ("{{ auth_state.key|lines }}", "one\ntwo\n"),
        ("{{ options.none|default('d') }}", "d"),
        ("{% if auth_state.none is defined %}x{% endif %}", ""),
    ],
)
def test_what_a_template_makes(source: str, text: str) -> None:
    assert made(source) == text


@given(st.text(max_size=30))
def test_a_value_is_never_a_template_and_never_another_line(value: str) -> None:
    """Whoever can choose a name, a group or an answer chooses nothing else."""
    for more in (
        {"username": value},
        {"groups": [value]},
        {"options": {"course": value}},
        {"auth_state": {"a": value}},
    ):
        source = {
            "username": "username",
            "groups": "groups[0]",
            "options": "options.course",
            "auth_state": "auth_state.a",
        }
        template = f"a = {{{{ {source[next(iter(more))]} }}}}\nb = 1\n"
        if CONTROL.search(value):
            with pytest.raises(BadInput, match="a line break or another control character"):
                made(template, **more)
        else:
            assert made(template, **more) == f"a = {value}\nb = 1\n"


@pytest.mark.parametrize(
    "value", ["{{ auth_state.access_token }}", "{% include '/etc/passwd' %}", "{# x #}", "$(id)", "'; id; '"]
)
def test_what_looks_like_a_template_or_a_command_stays_what_it_is(value: str) -> None:
    assert made("{{ username }}", username=value) == value
    assert made("{{ username|tojson }}", username=value).isprintable()
    assert json.loads(made("{{ username|tojson }}", username=value)) == value
    assert shlex.split(made("{{ username|quote }}", username=value)) == [value]
    echoed = subprocess.run(
        ["sh", "-c", "printf %s " + made("{{ username|quote }}", username=value)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert echoed.stdout == value


@pytest.mark.parametrize("value", ["a\0b", "a\x1b[2Jb", "a\rb", "a\x7f", "a\x85"])
def test_lines_lets_no_other_control_character_through(value: str) -> None:
    for source in ("{{ auth_state.a }}", "{{ auth_state.a|lines }}"):
        with pytest.raises(BadInput, match="control character") as told:
            made(source, auth_state={"a": value})
        assert value not in str(told.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ auth_state.access_token|round }}",
        "{{ auth_state.access_token + 1 }}",
        "{{ auth_state.access_token.nothing }}",
        "{{ auth_state[auth_state.access_token] }}",
        "{{ auth_state }}",
        "{{ auth_state.deep }}",
        "{{ options[auth_state.access_token] }}",
        "{{ 1 // (auth_state.access_token|length - 7) }}",
        "{{ '%d' % auth_state.access_token }}",
        "{{ auth_state.access_token|attr('x') }}",
    ],
)
def test_what_goes_wrong_is_told_without_the_value(source: str) -> None:
    with pytest.raises(BadInput) as told:
        made(source)
    assert str(told.value).startswith("addition 'x': ")
    assert "hunter" not in str(told.value)
    assert told.value.__suppress_context__


def test_a_claim_that_is_missing_is_named() -> None:
    with pytest.raises(BadInput, match="there is no 'id_token' here"):
        made("{{ auth_state.id_token }}")
    with pytest.raises(
        BadInput, match="it needs 'id_token' of your sign-in, of which nothing is kept; sign out and in again"
    ):
        made("{{ auth_state.id_token }}", auth_state={})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ usernam }}", "line 1: the variable 'usernam' is not known; did you mean 'username'"),
        (
            "x\n{% if false %}{{ nonsense }}{% endif %}",
            "line 2: the variable 'nonsense' is not known; known are account, ",
        ),
        ("{{ username", "line 1: "),
        ("{% include 'job.sh' %}", "no other template can be loaded"),
        ("{% import 'x' as y %}", "no other template can be loaded"),
        ("{% extends 'base.sh.j2' %}", "no other template can be loaded"),
        ("{{ username|nothing }}", "No filter named 'nothing'"),
        ("{{ lipsum() }}", "'lipsum' is not known"),
        ("a\0b", "holds a NUL"),
        ("a\ud800b", "what UTF-8 cannot"),
        ("x" * (SOURCE_LIMIT + 1), "longer than"),
        ("(" + "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply"),
    ],
)
def test_what_is_found_before_anybody_starts_anything(source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^addition 'x'") as told:
        ValueTemplates().read("addition 'x'", source)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ username.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ range.__globals__ }}",
        "{{ groups.append('x') }}",
        "{{ self._TemplateReference__context }}",
        "{{ '{0.__class__}'.format(username) }}",
        "{{ username|attr('__class__') }}",
        "{% for x in range(999999999) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises((BadInput, ConfigError)):
        made(source)
    assert SEEN["groups"] == ["physics", "x y"]


def test_what_it_asks_for_is_known_beforehand() -> None:
    read = ValueTemplates().read
    template = read(
        "x",
        "{{ options.a }}{{ options['b'] }}{{ options.c|default('') }}{% if options.d is defined %}{{ options.d }}{% endif %}",
    )
    assert (template.options, template.uses_state) == (frozenset("ab"), False)
    for source in (
        "{{ auth_state.x }}",
        "{% if auth_state %}{% endif %}",
        "{% set a = auth_state %}",
        "{{ {'a': auth_state} }}",
    ):
        assert read("x", source).uses_state


def test_lines_of_its_own() -> None:
    read = ValueTemplates().read
    assert ValueTemplates.written_lines(read("x", "a\nb"))
    assert not ValueTemplates.written_lines(read("x", "{% if username %}\na{% endif %}{{ '\n' }}"))
