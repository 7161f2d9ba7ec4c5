"""The engines, each started once for a module."""

from collections.abc import Iterator

import pytest

from tests.engines import engines
from tests.engines.engines import PERSON, Engine


@pytest.fixture(scope="session", params=[*engines.FLAVOURS, "rootless"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Each of them in its turn; a test that is not for all names its own."""
    directory = tmp_path_factory.mktemp(request.param)
    for path in (directory, *list(directory.parents)[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    made = {
        "podman": lambda: engines.podman(directory),
        "docker": lambda: engines.docker(directory),
        "rootless": lambda: engines.podman(directory, PERSON),
    }[request.param]
    with made() as engine:
        yield engine
