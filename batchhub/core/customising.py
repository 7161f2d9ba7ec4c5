"""Whom a site's additions are for, and what all of them make of one job: variables, secret variables, files. Pure.

A :class:`Rule` is an entry of the site's list ``additions``: conditions and templates. Rendering them is :mod:`batchhub.job.values`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from batchhub.core.additions import NO_FILES, NOTHING, Additions

FILES = "files"
"""The directory, within the job's own, of the files that were added; also the template variable that names it."""

FILES_VARIABLE = "BATCHHUB_FILES"
"""The variable of the job's environment that names it."""

LINE_LIMIT = 4096
"""Characters of a variable that stands in the job's script."""


@dataclass(frozen=True, slots=True)
class FileText:
    """What a file is made from: ``text``, or what stands in ``source``, a path on the hub's machine; as a template, or as it is."""

    text: str = ""
    source: str = ""
    template: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that is added to some people's jobs.

    ``groups``, ``profiles``, ``clusters``, ``users``: where one of them is given, it has to name the job's (of ``groups``: one of its owner's);
    without any it is for everybody. ``environment`` and ``files`` are templates by name. ``secret``: the variables are nobody's to see but the
    application's; a variable made from what was kept of a sign-in always is. ``where`` names the entry in sentences.
    """

    where: str
    groups: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    files: Mapping[str, FileText] = field(default_factory=dict)
    secret: bool = False

    def concerns(self, *, user: str, groups: Iterable[str], profile: str, cluster: str) -> bool:
        """Whether it is for this job. Names are compared exactly, with capitals."""
        return (
            (not self.groups or not set(self.groups).isdisjoint(groups))
            and (not self.profiles or profile in self.profiles)
            and (not self.clusters or cluster in self.clusters)
            and (not self.users or user in self.users)
        )


@dataclass(frozen=True, slots=True)
class Customisation:
    """What is added to one job: ``plain`` variables, which its script may show, ``secret`` ones, and ``files``."""

    plain: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    secret: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    files: Mapping[str, bytes] = field(default_factory=lambda: NO_FILES, repr=False)

    def __post_init__(self) -> None:
        """Check names and sizes as for every addition. Raises BadInput, which holds no value."""
        Additions({**self.plain, **self.secret}, self.files)
        for name in ("plain", "secret", "files"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def over(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The variables of the job's script, where ``environment`` is its cluster's and profile's; a secret one of a name leaves none there."""
        both = {**environment, **self.plain}
        return {name: value for name, value in both.items() if name not in self.secret}


NOT_CUSTOMISED = Customisation()


def hooked(additions: Additions) -> Customisation:
    """What a site's hook answered: its variables are taken for secrets, as nobody said that they are none."""
    return Customisation({}, additions.environment, additions.files)


def combined(parts: Iterable[Customisation]) -> Customisation:
    """All of them; of two variables or files of one name the later counts, secret or not. Raises BadInput when it is too much for one job."""
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in parts:
        for name in part.plain:
            secret.pop(name, None)
        for name in part.secret:
            plain.pop(name, None)
        plain |= part.plain
        secret |= part.secret
        files |= part.files
    return Customisation(plain, secret, files)
