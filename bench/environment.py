"""The project's own environment, for who starts a benchmark with a Python that knows nothing of it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("asyncssh", "tornado", "uvloop")


def enter() -> None:
    """Go on in ``.venv`` if this Python lacks what the proxy needs. Exits with a sentence if there is none."""
    if all(find_spec(name) for name in NEEDED):
        return
    program = Path(__file__).parents[1] / ".venv" / "bin" / "python"
    if not program.exists() or Path(sys.prefix) == program.parents[1]:
        raise SystemExit(
            "The proxy's dependencies are not installed here: `make bench` makes an environment with them, and runs this."
        )
    os.execv(program, [str(program), *sys.argv])
