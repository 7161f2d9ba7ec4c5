"""What a site adds to one job: its list ``additions`` for this person, profile and cluster, and what its hooks answer, made anew for each directory.

Everything is made before anything is written, so a template that fails refuses the start and leaves no half of a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from batchhub.app.site import Site
from batchhub.auth.base import Authenticator
from batchhub.config.additions import file_text, read_source
from batchhub.control.launcher import job_directory
from batchhub.core.additions import NO_ADDITIONS, Additions
from batchhub.core.customising import FILES, LINE_LIMIT, Customisation, FileText, Rule, combined, hooked
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.model import Server, UserName
from batchhub.job.values import STATE, ValueTemplate, ValueTemplates


async def _no_groups(_user: UserName) -> tuple[str, ...]:
    return ()


async def _no_state(_user: UserName) -> Mapping[str, Any]:
    return {}


async def _no_hook(_server: Server) -> Additions:
    return NO_ADDITIONS


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rest comes from: a person's ``groups``, the opened ``state`` of their sign-in (empty if none is kept), and what ``hook`` adds."""

    groups: Callable[[UserName], Awaitable[tuple[str, ...]]] = _no_groups
    state: Callable[[UserName], Awaitable[Mapping[str, Any]]] = _no_state
    hook: Callable[[Server], Awaitable[Additions]] = _no_hook


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a rule; ``template`` is read already if its text does not stand in a file of the hub's."""

    where: str
    file: FileText
    template: ValueTemplate | None

    def read(self, templates: ValueTemplates) -> bytes | ValueTemplate:
        """Blocks. Raises ConfigError for a source that is not what it was at the hub's start."""
        if self.template is not None:
            return self.template
        if self.file.template:
            return templates.read(self.where, file_text(self.where, self.file))
        return read_source(self.where, self.file.source) if self.file.source else self.file.text.encode()


@dataclass(frozen=True, slots=True)
class _Read:
    """A rule with its templates."""

    rule: Rule
    environment: Mapping[str, ValueTemplate]
    files: Mapping[str, _File]


class SiteCustomiser:
    """All of a site's additions."""

    def __init__(self, site: Site, sources: Sources | None = None) -> None:
        self._site = site
        self._sources = sources or Sources()
        self._templates = ValueTemplates()
        self._rules = tuple(self._read(rule) for rule in site.additions)

    def _read(self, rule: Rule) -> _Read:
        def file(name: str, text: FileText) -> _File:
            where = f"{rule.where}, file {name}"
            inline = text.template and not text.source
            return _File(where, text, self._templates.read(where, text.text) if inline else None)

        environment = {
            name: self._templates.read(f"{rule.where}, variable {name}", text)
            for name, text in rule.environment.items()
        }
        return _Read(rule, environment, {name: file(name, text) for name, text in rule.files.items()})

    @property
    def state_wanted_by(self) -> str:
        """The first template that needs what is kept of a sign-in; empty if none does. Those whose text is in a file are as they are now."""
        for read in self._rules:
            texts = [*read.environment.values(), *(file.read(self._templates) for file in read.files.values())]
            for text in texts:
                if isinstance(text, ValueTemplate) and text.uses_state:
                    return text.where
        return ""

    async def __call__(self, server: Server, home: str) -> Customisation:
        """For this job. Raises BadInput, ConfigError and what the sources raise; no sentence holds a value."""
        groups = await self._sources.groups(server.user) if self._rules else ()
        variables = self._variables(server, home, groups)
        parts: list[Customisation] = []
        for read in self._rules:
            if not _concerns(read.rule, server, groups):
                continue
            texts = await asyncio.to_thread(self._texts, read) if read.files else {}
            asked = [*read.environment.values(), *(text for text in texts.values() if isinstance(text, ValueTemplate))]
            if STATE not in variables and any(template.uses_state for template in asked):
                variables[STATE] = dict(await self._sources.state(server.user))
            parts.append(_made(read, texts, variables))
        parts.append(hooked(await self._sources.hook(server)))
        return combined(parts)

    def shown(self, server: Server, home: str, groups: tuple[str, ...]) -> Customisation:
        """What its script shows, for a look at it: secrets are empty, files too, and no hook is called. Raises BadInput."""
        variables = self._variables(server, home, groups)
        parts = []
        for read in self._rules:
            if _concerns(read.rule, server, groups):
                open_ones = {
                    name: template for name, template in read.environment.items() if not _is_secret(read, template)
                }
                shown = _Read(read.rule, open_ones, {})
                hidden = dict.fromkeys(read.environment.keys() - open_ones.keys(), "")
                parts += [_made(shown, {}, variables), Customisation({}, hidden, dict.fromkeys(read.files, b""))]
        return combined(parts)

    def _texts(self, read: _Read) -> Mapping[str, bytes | ValueTemplate]:
        return {name: file.read(self._templates) for name, file in read.files.items()}

    def _variables(self, server: Server, home: str, groups: tuple[str, ...]) -> dict[str, object]:
        profile = self._site.profile(server.profile)
        directory = job_directory(home, server.id)
        # What was not answered is empty, so that {% if options.project %} reads well.
        options = {**dict.fromkeys((field.name for field in profile.fields), ""), **server.options}
        return {
            "account": server.account,
            "cluster": server.cluster,
            "directory": directory,
            "files": f"{directory}/{FILES}",
            "groups": list(groups),
            "home": home.rstrip("/") or "/",
            "hub_url": self._site.cluster(server.cluster).callback_url.rstrip("/"),
            "options": options,
            "profile": server.profile,
            "server_name": server.name,
            "username": server.user,
        }


def check_kept(site: Site, authenticators: Iterable[Authenticator]) -> None:
    """Refuse additions that need what nobody's sign-in leaves. Raises ConfigError."""
    wanted = SiteCustomiser(site).state_wanted_by
    if wanted and not any(one.enable_auth_state for one in authenticators):
        raise ConfigError(
            f"{wanted}: it uses auth_state, of which nothing is kept; set c.Authenticator.enable_auth_state = True."
        )


def _concerns(rule: Rule, server: Server, groups: tuple[str, ...]) -> bool:
    return rule.concerns(user=server.user, groups=groups, profile=server.profile, cluster=server.cluster)


def _is_secret(read: _Read, template: ValueTemplate) -> bool:
    return read.rule.secret or template.uses_state


def _made(read: _Read, texts: Mapping[str, bytes | ValueTemplate], variables: Mapping[str, object]) -> Customisation:
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    for name, template in read.environment.items():
        value = template.render(variables)
        if _is_secret(read, template):
            secret[name] = value
            continue
        if len(value) > LINE_LIMIT:
            raise BadInput(
                f"{template.where}: it stands in the job's script, and is longer than {LINE_LIMIT} characters."
            )
        plain[name] = value
    files = {
        name: text.render(variables).encode() if isinstance(text, ValueTemplate) else text
        for name, text in texts.items()
    }
    try:
        return Customisation(plain, secret, files)
    except BadInput as error:
        raise BadInput(f"{read.rule.where}: {error}") from error
