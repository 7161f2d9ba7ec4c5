"""Real parts that a test needs: a skip that says what to install, and a failure where CI promises to have them."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip with a sentence, or fail under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {what}")
    pytest.skip(what)


def need_program(name: str, package: str) -> str:
    """The program's path; its Debian package is named when it is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed: apt-get install {package}")
    return path


def need_root() -> None:
    """Network namespaces, other users and sshd for them need root."""
    if os.geteuid() != 0:
        missing("must run as root (network namespaces, other users)")
