"""The lab's fixtures for its own tests."""

from tests.lab.fixtures import slurm_lab, slurm_lab_accounting

__all__ = ["slurm_lab", "slurm_lab_accounting"]
