"""The engines, each started once for a worker."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import engines
from tests.engines.engines import PERSON, Engine


@pytest.fixture(scope="session", params=[*engines.FLAVOURS, "rootless"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each of them in its turn; a test that is not for all names its own."""
    # podman takes no runroot of more than 50 characters; those of pytest are longer.
    directory = Path(tempfile.mkdtemp(prefix="bh", dir="/tmp"))
    directory.chmod(0o755)
    made = {
        "podman": lambda: engines.podman(directory),
        "docker": lambda: engines.docker(directory),
        "rootless": lambda: engines.podman(directory, PERSON),
    }[request.param]
    try:
        with made() as engine:
            yield engine
    finally:
        shutil.rmtree(directory, ignore_errors=True)
