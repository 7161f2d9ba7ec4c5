"""The list ``additions``: what is wrong is said at start, with entry, key and value."""

from pathlib import Path
from typing import Any

import pytest

from batchhub.config.additions import read_rules
from batchhub.config.profiles import read_profiles
from batchhub.core.additions import FILE_LIMIT
from batchhub.core.customising import FileText, Rule
from batchhub.core.errors import ConfigError

PROFILES = read_profiles(
    [
        {"name": "lab", "cluster": "hpc", "fields": {"cores": {}}, "fixed": {"course": "none"}},
        {"name": "spark", "cluster": "big", "fields": {"memory": {}}},
    ],
    ["hpc", "big"],
    ["jupyterlab"],
)


def rules(*tables: Any) -> tuple[Rule, ...]:
    return read_rules(tables, PROFILES, ["hpc", "big"])


def test_what_is_read(tmp_path: Path) -> None:
    source = tmp_path / "ca.pem"
    source.write_bytes(b"\xff")
    first, second = rules(
        {"environment": {"A": "{{ username }}"}},
        {
            "name": "course",
            "groups": ["physics"],
            "profiles": ["lab"],
            "clusters": ["hpc"],
            "users": ["ann"],
            "environment": {"A": "{{ options.cores }} {{ options.course }}", "B": "{{ auth_state.x }}\n"},
            "files": {"a": "{{ groups }}", "b": {"text": "{{", "template": False}, "c.pem": {"source": str(source)}},
            "secret": False,
        },
    )
    assert first == Rule("additions[0]", environment={"A": "{{ username }}"})
    assert (second.where, second.groups, second.users) == ("addition 'course'", ("physics",), ("ann",))
    assert second.files == {
        "a": FileText("{{ groups }}"),
        "b": FileText("{{", template=False),
        "c.pem": FileText(source=str(source), template=False),
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("x", "additions[0]: a table is expected."),
        ({"enviroment": {}}, "additions[0]: unknown setting 'enviroment'; did you mean 'environment'?"),
        ({}, "additions[0]: it adds nothing; give it 'environment' or 'files'."),
        ({"groups": "physics", "environment": {"A": ""}}, "additions[0].groups: a list is expected, not 'physics'."),
        ({"groups": [], "environment": {"A": ""}}, "additions[0]: groups is an empty list, which nobody is in"),
        ({"profiles": ["lap"], "environment": {"A": ""}}, "profiles: 'lap' is not defined; did you mean 'lab'?"),
        ({"clusters": ["x"], "environment": {"A": ""}}, "clusters: 'x' is not defined; known: big, hpc."),
        ({"name": "a\nb", "environment": {"A": ""}}, "a name is one line"),
        ({"environment": {"A": 1}}, "additions[0].environment.A: 1 is not of type str."),
        ({"environment": {"A B": ""}}, "additions[0]: 'A B' cannot name a variable"),
        ({"environment": {"JUPYTER_TOKEN": ""}}, "additions[0]: The variable JUPYTER_TOKEN is the hub's own to set."),
        ({"environment": {"LD_PRELOAD": "/x.so"}}, "only a prologue may set it"),
        ({"environment": {"A": "{{ user }}"}}, "additions[0], variable A, line 1: the variable 'user' is not known"),
        ({"environment": {"A": "{{ options.cores }}"}}, "profile 'spark' has no field 'cores'; known: memory."),
        ({"profiles": ["lab"], "environment": {"A": "{{ options.core }}"}}, "did you mean 'cores'?"),
        (
            {"environment": {"A": "a\nb"}},
            "variable A: it stands in the job's script and must be one line; say secret = true",
        ),
        ({"files": {"../x": ""}}, "'../x' cannot name a file of a job"),
        ({"files": {"a/b": ""}}, "'a/b' cannot name a file of a job"),
        ({"files": {".bashrc": ""}}, "'.bashrc' cannot name a file of a job"),
        ({"files": {"x": 1}}, "file 'x': a text is expected, or a table such as"),
        ({"files": {"x": {}}}, "file 'x': either 'text' or 'source' says what is in it."),
        ({"files": {"x": {"text": "", "source": "/etc/x"}}}, "either 'text' or 'source'"),
        ({"files": {"x": {"source": "x.conf"}}}, "source 'x.conf' must be an absolute path"),
        ({"files": {"x": {"source": "/no/such"}}}, "source /no/such is no file."),
        ({"files": {"x": {"source": "/dev/zero"}}}, "source /dev/zero is no file."),
        ({"files": {"x": "{{ nonsense }}"}}, "additions[0], file x, line 1: the variable 'nonsense' is not known"),
    ],
)
def test_what_is_wrong_is_said(table: Any, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        rules(table)
    assert words in str(told.value)


def test_a_source_that_is_too_long_and_one_that_is_no_text(tmp_path: Path) -> None:
    long, odd = tmp_path / "long", tmp_path / "odd"
    long.write_bytes(bytes(FILE_LIMIT + 1))
    odd.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"longer than {FILE_LIMIT} bytes"):
        rules({"files": {"x": {"source": str(long)}}})
    with pytest.raises(ConfigError, match="no UTF-8, so it cannot be a template"):
        rules({"files": {"x": {"source": str(odd), "template": True}}})


def test_lines_may_be_in_what_no_script_shows() -> None:
    assert rules({"secret": True, "environment": {"A": "a\nb"}}, {"environment": {"A": "a\n{{ auth_state.x }}"}})


def test_it_is_a_list() -> None:
    with pytest.raises(ConfigError, match="additions: a list of tables is expected"):
        read_rules({"environment": {}}, PROFILES, [])  # type: ignore[arg-type]
