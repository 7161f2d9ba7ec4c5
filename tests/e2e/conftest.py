"""Fixtures of the end-to-end tests."""

from tests.lab.fixtures import slurm_lab, slurm_lab_accounting

__all__ = ["slurm_lab", "slurm_lab_accounting"]
