"""Recordings of real commands: ``tests/recordings/DIALECT/NAME.txt``, a head of ``key: value`` lines, then the three streams."""

import shlex
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1] / "recordings"
NO_NEWLINE = "\n(no newline at end of stdout)\n"


def recorded(dialect, name):
    """What was called (``argv``, ``stdin``) and what came of it (``rc``, ``out``, ``err``)."""
    text = (ROOT / dialect / f"{name}.txt").read_text(encoding="utf-8")
    body, _, err = text.partition("--- stderr\n")
    body, _, out = body.partition("--- stdout\n")
    head, _, stdin = body.partition("--- stdin\n")
    pairs = dict(line.partition(": ")[::2] for line in head.splitlines())
    if out.endswith(NO_NEWLINE):
        out = out.removesuffix(NO_NEWLINE)
    status = pairs["exit code"]
    return SimpleNamespace(
        argv=shlex.split(pairs["command"]),
        user=pairs["as user"],
        stdin=stdin,
        out=out,
        err=err,
        rc=int(status) if status.isdigit() else None,
    )
