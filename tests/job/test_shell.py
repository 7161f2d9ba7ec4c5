"""Values in shell text. The property runs bash on what came out: each value must come back as one word, unchanged."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.core.errors import TemplateProblem
from batchhub.job.shell import CheckedText, mark, mark_raw, place

NASTY = st.one_of(
    st.text(st.characters(min_codepoint=32, exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30),
    st.text(st.sampled_from("'\"$`\\!;&|<>(){}[]*?~# =a-%"), max_size=20),
    st.sampled_from(
        [
            "$(id)",
            "`id`",
            "'; id #",
            '"; id; "',
            "\\",
            "\\'",
            "a\\' ; id #",
            "${HOME}",
            "-n",
            "EOF",
            "~root",
            "$'\\x41'",
        ]
    ),
)


def bash(script: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-s"],
        input=script.encode(),
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert not done.stderr, (script, done.stderr)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=80)
@given(st.lists(NASTY, min_size=1, max_size=8))
def test_no_value_escapes(values: list[str]) -> None:
    assert shutil.which("bash")
    lines, wanted = [], []
    for value in values:
        lines += [
            f"# a remark: {mark(value)}",
            f"printf '%s\\0' {mark(value)} x{mark(value)}y",
            f"printf '%s\\0' \"{mark(value)}\" \"a $HOME {mark(value)}\" 'b {mark(value)}'",
            f"v={mark(value)} # why {mark('plain')}",
            "printf '%s\\0' \"$v\"",
        ]
        wanted += [value, f"x{value}y", value, f"a  {value}", f"b {value}", value]
    assert bash(place("unset HOME\n" + "\n".join(lines) + "\n", "t")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "#SBATCH --partition={}",
        "  #PBS -l x={}",
        "#{}",
        "x=$(echo {})",
        'x="$(echo {})"',
        'x="$(echo "{}")"',
        "x=`echo {}`",
        "x=${{y:-{}}}",
        "(( {} ))",
        "x=$(( {} + 1 ))",
        "cat <<EOF\n{}\nEOF\n",
        "cat <<-'EOF'\n\t{}\n\tEOF\n",
        "echo \\{}",
        'echo "\\{}"',
        "echo $'{}'",
    ],
)
def test_where_only_plain_values_may_stand(text: str) -> None:
    for nasty in ("a b", "a;b", "$(id)", "a[$(id)]", "'"):
        with pytest.raises(TemplateProblem) as caught:
            place("\n" + text.format(mark(nasty)), "site.sh.j2")
        assert "site.sh.j2, line " in str(caught.value)
    assert "gpu-1:2" in place(text.format(mark("gpu-1:2")), "t")


@pytest.mark.parametrize("text", ["echo ${}", 'echo "${}"', "echo $(x ${})"])
def test_a_value_is_no_variables_name(text: str) -> None:
    with pytest.raises(TemplateProblem, match="follows a"):
        place(text.format(mark("HOME")), "t")


def test_a_value_cannot_end_a_here_document() -> None:
    with pytest.raises(TemplateProblem, match="end the here-document"):
        place(f"cat <<EOF\n{mark('EOF')}\nEOF\n", "t")
    assert bash(place(f"cat <<'EOF'\nit's {mark('x')}\nEOF\nprintf '%s\\0' {mark('a b')}", "t"))[0].endswith("a b")


def test_quotes_that_do_not_balance_are_no_place_for_odd_values() -> None:
    with pytest.raises(TemplateProblem, match="balance"):
        place(f"echo {mark('a b')} it's\n", "t")
    assert place(f"echo {mark('ab')} it's\n", "t") == "echo ab it's\n"
    with pytest.raises(TemplateProblem, match="case"):
        place(f'x="$(case $y in a) echo {mark("a;id")};; esac)"', "t")


def test_comments_and_raw_text() -> None:
    assert (
        place(f"# it's\n{mark_raw('echo it' + chr(39) + 's')}\necho {mark('a b')}", "t")
        == "# it's\necho it's\necho 'a b'"
    )
    assert place(f"#SBATCH {mark_raw('-x a')}", "t") == "#SBATCH -x a"
    assert place(f"#{mark_raw('x' + chr(10) + 'echo ')}{mark('a b')}", "t") == "#x\necho 'a b'"
    assert place(f'#SBATCH -C "{mark(CheckedText("a&b"))}"\necho {mark(CheckedText("a&b"))}', "t").endswith(
        "echo 'a&b'"
    )
    assert place(f"echo a#b {mark('a b')} <<< x; y=${{#z}} {mark('c d')}", "t") == "echo a#b 'a b' <<< x; y=${#z} 'c d'"
    assert place(f"echo {mark('')} \\\n {mark('a b')}; (( 1 << 2 ))", "t") == "echo '' \\\n 'a b'; (( 1 << 2 ))"
