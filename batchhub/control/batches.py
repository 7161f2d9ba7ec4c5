"""Job ids in as few commands as a command line can hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batchhub.core.model import JobId

LINE_BYTES = 112 * 1024
"""Bytes of ids in one command. Linux takes 128 KiB for one argument (MAX_ARG_STRLEN, execve(2)): all of Slurm's ids are one argument of
``squeue``, and over SSH the whole command is one argument of the login shell. The rest is for the program, its options and its environment."""

MOST = 5000
"""Ids in one command at most. A record of PBS has some 3 KB, and at most 64 MiB are read of an answer."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._,:/=@+-")
_CODED = 5
"""Bytes that any other byte becomes on its way over SSH (``\\0133``)."""


def cost(job: JobId) -> int:
    """The bytes that an id takes of a command line, with the character that parts it from the next one.

    One that a shell would read differently (``123[4]``) stands in quotes. The dialects let no quote or backslash pass in an id, and
    the cluster that Slurm names behind a semicolon is no part of what Slurm is asked.
    """
    sent = job.partition(";")[0]
    odd = sum(byte not in _PLAIN for byte in sent.encode("utf-8", "surrogatepass"))
    return len(sent) + 1 + ((odd + 2) * _CODED if odd else 0)


def by_cluster(jobs: Iterable[JobId]) -> list[list[JobId]]:
    """The ids, parted by the cluster that Slurm named behind a semicolon: the same number is another job there."""
    groups: dict[str, list[JobId]] = {}
    for job in jobs:
        groups.setdefault(job.partition(";")[2], []).append(job)
    return list(groups.values())


def batches(jobs: Sequence[JobId], *, room: int = LINE_BYTES, most: int = MOST) -> Iterator[Sequence[JobId]]:
    """The ids in their order, in parts of at most ``room`` bytes and ``most`` ids; an id that is longer goes alone."""
    begin, used = 0, 0
    for at, job in enumerate(jobs):
        needed = cost(job)
        if at > begin and (used + needed > room or at - begin >= most):
            yield jobs[begin:at]
            begin, used = at, 0
        used += needed
    if begin < len(jobs):
        yield jobs[begin:]
