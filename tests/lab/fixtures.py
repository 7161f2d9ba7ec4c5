"""The lab as pytest fixtures; a conftest imports those it wants."""

from collections.abc import Iterator

import pytest

from tests.lab.cluster import SlurmLab


@pytest.fixture(scope="session")
def slurm_lab() -> Iterator[SlurmLab]:
    """One cluster for the whole run, without accounting. A test leaves it as it found it: ``cancel_all()``."""
    with SlurmLab() as lab:
        yield lab


@pytest.fixture(scope="session")
def slurm_lab_accounting() -> Iterator[SlurmLab]:
    """A second one, with slurmdbd, beside the first."""
    with SlurmLab(accounting=True) as lab:
        yield lab
