"""The sudoers file that lets a service account do what :func:`~batchhub.transport.shell.sudo` asks for, and nothing beside it. Pure.

sudoers(5): in the list of whom one may act as, ``%group`` stands for its members, ``!`` takes away, and the last that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from batchhub.core.errors import BadInput

ROOT_LIKE = (
    *("root", "sudo", "wheel", "admin", "docker", "lxd", "incus-admin", "libvirt"),
    *("disk", "kmem", "shadow"),
)
"""Groups whose members are root, or become it without being asked for more. A group that a machine does not have matches nobody."""

_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
"""No upper case: sudoers takes ``PEOPLE`` for an alias and ``ALL`` for everybody. No ``%``, ``#``, ``!``, ``,`` and no space."""


def sudoers(service: str, group: str, without: Sequence[str] = ROOT_LIKE) -> str:
    """The file for one machine: ``service`` acts as members of ``group``, except root, itself and members of the groups ``without``.

    Raises BadInput for what sudoers could read as something else than a name.
    """
    if _name(service, "account") == "root":
        raise BadInput(
            "The service's account is root, who needs no sudoers file: run the hub under an account of its own."
        )
    taken = [name for name in without if name]
    if _name(group, "group") in taken:
        raise BadInput(f"The members of {group!r} can become root; name a group of people who use the hub.")
    left_out = ", ".join(["!root", "!#0", f"!{service}", *(f"!%{_name(name, 'group')}" for name in taken)])
    return _TEXT.format(service=service, group=group, without=left_out)


def _name(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise BadInput(
            f"{text[:64]!r} is not the name of {'an' if what == 'account' else 'a'} {what} that sudoers reads as nothing else: lower case "
            "letters, digits, '_', '.' and '-', at most 32."
        )
    return text


# /bin/sh -c * is the least that lets the hub submit as a person: whoever may submit a job as somebody runs what they like as them in
# it, so a list of scheduler's commands here would limit nothing that a job does not give back.
_TEXT = """\
# BatchHub, on the machine where jobs are submitted: {service} acts as the members of {group}, never as root.
# Printed by `batchhub sudoers`. Put it there with: visudo -cf FILE && install -m 0440 FILE /etc/sudoers.d/batchhub
# (a name with a '.' in it would not be read). Where the scheduler's commands need a variable, add: Defaults:{service} env_keep += "SLURM_CONF"
# What this gives away: docs/security.md, "If something is stolen".
Defaults:{service} env_reset, !setenv, !requiretty
Runas_Alias BATCHHUB_PEOPLE = %{group}, {without}
Cmnd_Alias BATCHHUB_SCRIPT = /bin/sh -c *
{service} ALL = (BATCHHUB_PEOPLE) NOPASSWD: BATCHHUB_SCRIPT
"""
