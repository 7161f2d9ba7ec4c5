"""The habits that are checks: lint, types, import contracts, nothing of this machine in the tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",)], ids=" ".join
)
def test_it_is_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_module_is_longer_than_one_can_hold_in_the_head() -> None:
    allowed = {"launch.py": 1040}  # one file by design: it is copied to the node
    for path in tracked():
        if path.suffix == ".py" and "batchhub" in path.parts[:-1] and "tests" not in path.relative_to(ROOT).parts:
            lines = len(path.read_text().splitlines())
            assert lines <= allowed.get(path.name, 480), f"{path.name} has {lines} lines"


def test_no_module_keeps_state_of_its_own() -> None:
    """Style: no mutable module global. A list, dict or set bound to a lower-case name at module level is one."""
    guilty = re.compile(r"^(?!__)[a-z_][a-z0-9_]*(?:: [^=]+)? = (?:\[|\{|list\(|dict\(|set\()", re.MULTILINE)
    for path in tracked():
        relative = path.relative_to(ROOT)
        if path.suffix == ".py" and relative.parts[0] == "batchhub" and "migrations" not in relative.parts:
            assert not guilty.search(path.read_text()), f"{relative}: {guilty.search(path.read_text())}"


def test_nothing_of_a_developers_machine_is_committed() -> None:
    marks = [
        re.compile(mark) for mark in (r"/wor" + r"k/main", r"\.\./sha" + r"red", r"/tmp" + r"/w/", r"bash" + r"_jobs")
    ]
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            pytest.fail(f"{path.relative_to(ROOT)} is not text")
        for mark in marks:
            assert not mark.search(text), f"{path.relative_to(ROOT)} names {mark.pattern}"


def test_every_test_that_the_docs_name_is_there() -> None:
    """Claims are shown by tests; a name with ``_`` at its end (``test_rule_1_*``) stands for all that begin so."""
    known = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    known |= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for page in (ROOT / "docs").glob("*.md"):
        for name in set(re.findall(r"(?:::|`|/)(test_\w+)", page.read_text())):
            there = any(one.startswith(name) for one in known) if name.endswith("_") else name in known
            assert there, f"{page.name} names {name}"
