"""Reads a recording: headers, then what went in and came out of the command."""

from pathlib import Path

from batchhub.core.ports import Completed

_HERE = Path(__file__).parent.parent
_SECTIONS = {"--- stdin": "stdin", "--- stdout": "stdout", "--- stderr": "stderr"}


def names(dialect: str) -> list[str]:
    return sorted(path.stem for path in (_HERE / dialect).glob("*.txt"))


def recorded(dialect: str, name: str) -> tuple[str, Completed]:
    """(command line, answer)."""
    headers: dict[str, str] = {}
    parts: dict[str, list[str]] = {"head": [], "stdin": [], "stdout": [], "stderr": []}
    section = "head"
    for line in (_HERE / dialect / f"{name}.txt").read_text(encoding="utf-8", errors="replace").split("\n"):
        if line in _SECTIONS:
            section = _SECTIONS[line]
        elif section == "head":
            key, _, value = line.partition(": ")
            headers.setdefault(key, value)
        elif line != "(no newline at end of stdout)":
            parts[section].append(line)
    timed_out = headers["exit code"].startswith("timeout")
    code = None if timed_out else int(headers["exit code"])
    out = "".join(f"{line}\n" for line in parts["stdout"])
    return headers["command"], Completed(code, out, "\n".join(parts["stderr"]), timed_out=timed_out)
