"""The files of a job's directory, as the hub writes them before it submits (each 0600, in a 0700 directory)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

from batchhub.core import handshake


@cache
def launcher_source() -> bytes:
    """The text of ``launch.py``, to be copied into each job's directory; the one this process started with, also after an upgrade."""
    return resources.files("batchhub.job").joinpath("launch.py").read_bytes()


def job_files(script: str, launch: bytes, secrets: bytes) -> Mapping[str, bytes]:
    """Name -> content of everything that must be there before the job is submitted; the secrets come last."""
    return {
        handshake.JOB_SCRIPT: script.encode(),
        handshake.LAUNCHER: launcher_source(),
        handshake.LAUNCH: launch,
        handshake.SECRETS: secrets,
    }
