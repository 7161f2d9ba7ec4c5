"""The command line."""

from __future__ import annotations

import asyncio
import errno
import getpass
import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Unicode
from traitlets.config import Config

from batchhub import __version__
from batchhub.app.audit_command import AuditCommand
from batchhub.app.command import Command, run, say
from batchhub.app.config_command import ConfigCommand
from batchhub.app.customising import SiteCustomiser
from batchhub.app.demo import Demo
from batchhub.app.detached import keep_detached, reload_detached, start_detached, stop_detached
from batchhub.app.events_command import EventsCommand
from batchhub.app.hub import serve
from batchhub.app.jobs import PREVIEW_ID, SiteJobBuilder
from batchhub.app.orphans_command import OrphansCommand
from batchhub.app.plan import HubPlan, plan_hub
from batchhub.app.proxy_command import ProxyCommand
from batchhub.app.reach import ask_directly, unusable_files
from batchhub.app.site import load_authenticators, read_site
from batchhub.app.ssh_ca_command import SshCaCommand
from batchhub.app.sudoers_command import SudoersCommand
from batchhub.app.vault_command import VaultCommand
from batchhub.auth.dictionary import hash_password
from batchhub.config import traits
from batchhub.config.tables import suggest
from batchhub.core.errors import BadInput, ConfigError, Denied, InvalidForm
from batchhub.core.forms import check
from batchhub.core.model import Server, UserName
from batchhub.store import SoleHub, schema
from batchhub.store.backup import backup

log = logging.getLogger(__name__)


NOT_SERVING = frozenset({"ip", "port", "state-dir"})


class ServingCommand(Command):
    """What the commands that serve share."""

    def serve_hub(self, beside: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """The hub, until a signal; ``beside`` it runs as long."""
        hub = self.trait(traits.BatchHub)
        ways = {name: self.trait(cls) for name, cls in load_authenticators(hub.authenticator_class).items()}
        site = read_site(hub)
        plan = plan_hub(self.trait, site, self.state(), ways)
        log.info(
            "BatchHub %s with %s; state in %s; clusters %s; sign-in by %s",
            __version__,
            self.config_path or "its defaults",
            plan.state.path,
            ", ".join(cluster.name for cluster in site.clusters),
            ", ".join(ways),
        )
        for words in unusable_files(site.clusters):
            log.warning("%s Nothing can be done on this cluster until it is put right.", words)
        try:
            asyncio.run(_serve_beside(plan, beside))
        except OSError as error:
            if error.errno not in _NO_LISTENING:
                raise
            where = f"{plan.listen[0]}:{plan.listen[1]}"
            raise ConfigError(
                f"The hub cannot listen on {where}: {error.strerror}. Does another hub run? Else set c.Hub.port."
            ) from error


async def _serve_beside(plan: HubPlan, beside: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    work = asyncio.create_task(beside(), name="keep the proxy") if beside is not None else None
    try:
        await serve(plan)
    finally:
        if work is not None:
            work.cancel()


_NO_LISTENING = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class HubCommand(ServingCommand):
    """Start the hub alone; a service manager starts `batchhub proxy` beside it."""

    name = "batchhub hub"
    description = "Start the hub: people, forms, database, scheduler. The proxy is a process of its own."

    def act(self) -> None:
        """What the class says."""
        self.serve_hub()


class StopCommand(ServingCommand):
    """End the proxy that `batchhub` left running."""

    name = "batchhub stop"
    unlisted = frozenset({"ip", "port"})
    description = "End the detached proxy. This cuts every open notebook connection; the jobs go on."

    def act(self) -> None:
        """What the class says."""
        pid = stop_detached(self.state())
        say("No detached proxy is running." if pid is None else f"The proxy (pid {pid}) was told to end.")


class ReloadCommand(ServingCommand):
    """Have the proxy that `batchhub` left running take over a new version and configuration."""

    name = "batchhub reload"
    unlisted = frozenset({"ip", "port"})
    description = (
        "Have the detached proxy become the version and the configuration that are installed now. No connection is cut: what is open is "
        "finished by the processes that have it. If anything is wrong with the new ones, its log says so and all goes on as it was."
    )

    def act(self) -> None:
        """What the class says."""
        state = self.state()
        pid = reload_detached(state)
        if pid is None:
            raise BadInput("No detached proxy is running, so there is nothing to reload.")
        say(f"The proxy (pid {pid}) was told to reload; {state.proxy_log} says how that goes.")


class RenderCommand(Command):
    """Print a job script."""

    name = "batchhub render"
    description = (
        "Print the job script that a form would submit, without submitting. "
        "Values are given as NAME=VALUE, as typed into the form: batchhub render --profile=lab cores=4 walltime=8h"
    )
    profile = Unicode(help="Which profile; the first one if not given.").tag(config=True)
    user = Unicode(help="For whom; you if not given.").tag(config=True)
    groups = Unicode(help="Groups of theirs, with commas between: what is added to whose jobs depends on them.").tag(
        config=True
    )
    home = Unicode(help="Home directory on the cluster; /home/USER if not given.").tag(config=True)
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.aliases,
        "profile": ("RenderCommand.profile", "NAME|Which profile; the first one if not said."),
        "user": ("RenderCommand.user", "NAME|For whom; you if not said."),
        "groups": ("RenderCommand.groups", "NAME,…|Groups of theirs, which additions may depend on."),
        "home": ("RenderCommand.home", "DIR|Home directory on the cluster; /home/USER if not said."),
    }
    arguments = "[NAME=VALUE …]"
    unlisted = NOT_SERVING

    def act(self) -> None:
        """What the class says."""
        site = read_site(self.trait(traits.BatchHub))
        profile = site.profile(self.profile) if self.profile else site.profiles[0]
        raw = {field.name: [field.shown(field.default)] for field in profile.fields if field.default is not None}
        for word in self.extra_args:
            name, equals, value = word.partition("=")
            if not equals or name not in {field.name for field in profile.fields}:
                offered = ", ".join(field.name for field in profile.fields)
                raise BadInput(
                    f"{word!r}: NAME=VALUE is expected, with a field of profile {profile.name!r}: {offered}."
                )
            raw[name] = [value]
        try:
            options = check(profile, raw)
        except InvalidForm as error:
            raise BadInput(
                "\n  ".join(["The form would refuse this:", *(f"{n}: {t}" for n, t in error.fields.items())])
            ) from error
        user = self.user or getpass.getuser()
        try:
            account = site.cluster(profile.cluster).account_of(user)
        except Denied as error:
            if self.user:
                raise
            raise BadInput(f"Say with --user=NAME whose script is to be shown; yours cannot be: {error}") from error
        epoch = datetime.fromtimestamp(0, UTC)
        server = Server(PREVIEW_ID, UserName(user), "", profile.cluster, profile.name, account, epoch, epoch)
        home = (self.home or f"/home/{account}").rstrip("/")
        shown = replace(server, options=options)
        groups = tuple(name for word in self.groups.split(",") if (name := word.strip()))
        added = SiteCustomiser(site).shown(shown, home, groups)
        script = SiteJobBuilder(site, bytes(32)).preview(profile, options, user, home, shown, added=added)
        sys.stdout.write(script)


class DatabaseCommand(ServingCommand):
    """Database chores."""

    name = "batchhub db"
    arguments = "upgrade|downgrade REVISION|revision|backup FILE"
    unlisted = frozenset({"ip", "port"})
    description = (
        "`batchhub db upgrade` brings the database to this version's schema; `batchhub db revision` says where it is. `batchhub db downgrade "
        "REVISION` takes it back for an older version: end every hub and make a backup first, for what only the newer schema holds is lost. "
        "`batchhub db backup FILE` copies SQLite's, also while the hub runs; the keys in state_dir are not in it."
    )

    def act(self) -> None:
        """What the class says."""
        what = self.extra_args[0] if self.extra_args else ""
        url = self.trait(traits.BatchHub).db_url or self.state().database
        if what == "upgrade":
            schema.upgrade(url)
            say(f"The database is at revision {schema.revision(url)}.")
        elif what == "revision":
            say(schema.revision(url) or "The database is empty.")
        elif what == "downgrade" and len(self.extra_args) == 2:
            self._downgrade(url, self.extra_args[1])
        elif what == "backup" and len(self.extra_args) == 2:
            backup(url, Path(self.extra_args[1]))
            say(f"{self.extra_args[1]} is a copy of the database.")
        else:
            raise BadInput(
                "batchhub db upgrade, batchhub db downgrade REVISION, batchhub db backup FILE, or batchhub db revision."
            )

    def _downgrade(self, url: str, target: str) -> None:
        claim = SoleHub(url)
        claim.claim()
        try:
            before = schema.revision(url)
            schema.downgrade(url, target)
        finally:
            claim.release()
        say(f"The database is at revision {schema.revision(url) or 'base'}; what only {before} could hold is gone.")


class HashPasswordCommand(Command):
    """Hash a password."""

    name = "batchhub hash-password"
    unlisted = NOT_SERVING | {"config"}
    description = "Ask for a password and print its hash, for c.DictionaryAuthenticator.users."

    def act(self) -> None:
        """What the class says."""
        if not sys.stdin.isatty():
            password = sys.stdin.readline().rstrip("\n")
        else:
            password = getpass.getpass("Password: ")
            if password != getpass.getpass("Again: "):
                raise BadInput("The two are not the same.")
        if not password:
            raise BadInput("An empty password opens the hub to everybody.")
        say(hash_password(password))


class BatchHubCommand(ServingCommand):
    """Hub and proxy."""

    name = "batchhub"
    description = (
        "Start the hub, and the proxy beside it if none is running. The proxy goes on when the hub ends, so that nobody's notebook is "
        "cut by a restart; `batchhub stop` ends it. `batchhub hub` and `batchhub proxy` start one each, for a service manager."
    )
    examples = """
    batchhub demo                                    try it: no root, no scheduler
    batchhub config --generate > batchhub_config.py  every setting, to edit
    batchhub --config=batchhub_config.py             hub and proxy
    batchhub render cores=4 walltime=8h              the job script that would be submitted
    """
    subcommands: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "hub": (HubCommand, "Start the hub alone."),
        "proxy": (ProxyCommand, "Start the proxy alone."),
        "reload": (ReloadCommand, "Renew the detached proxy without cutting connections."),
        "stop": (StopCommand, "End the detached proxy."),
        "demo": (Demo, "Try it here: local queue, JupyterLab, one user, no root."),
        "render": (RenderCommand, "Print the job script that would be submitted."),
        "events": (EventsCommand, "Show what happened to servers, and by whom."),
        "audit": (AuditCommand, "Show who signed in, was refused, ended whose session …"),
        "db": (DatabaseCommand, "Upgrade the database, or show its revision."),
        "orphans": (OrphansCommand, "List jobs with our tag that no row knows."),
        "config": (ConfigCommand, "Generate or check a configuration."),
        "ssh-ca": (SshCaCommand, "The authority that signs SSH certificates for clusters."),
        "vault": (VaultCommand, "Change the keys that seal what is kept of people."),
        "sudoers": (SudoersCommand, "Print what a cluster's admins allow the hub by sudo."),
        "hash-password": (HashPasswordCommand, "Hash a password for DictionaryAuthenticator."),
    }

    def act(self) -> None:
        """What the class says."""
        if self.extra_args:
            word = self.extra_args[0]
            if word in self.subcommands:
                raise ConfigError(f"The command comes first: batchhub {word} [options]")
            raise ConfigError(f"There is no command {word!r}; {suggest(word, self.subcommands)}")
        read_site(self.trait(traits.BatchHub))
        if not self.trait(traits.Proxy).should_start:
            self.serve_hub()
            return
        state, proxy = self.state(), self.trait(traits.Proxy)
        arguments = [f"--config={self.config_path}"] if self.config_path else []
        arguments += _as_flags(self.cli_config)

        def start() -> int | None:
            return start_detached(
                state, arguments, lambda: proxy_answers(proxy.api_ip, proxy.api_port, state.api_token)
            )

        pid = start()
        if pid is None:
            log.info("the proxy runs already; its routes and connections are kept")
        else:
            log.info("the proxy was started (pid %d, log %s); `batchhub stop` ends it", pid, state.proxy_log)
        self.serve_hub(lambda: keep_detached(state, start))


def _as_flags(config: Config) -> list[str]:
    """What the command line set, for the proxy's; however it was written there.

    Without the database's address, which a password may stand in and the proxy has no use for. traitlets files what is set for every
    command under the one that runs; another command knows it by the name they share.
    """
    shared = {BatchHubCommand.__name__: Command.__name__}
    return [
        f"--{shared.get(section, section)}.{name}={word}"
        for section, values in config.items()
        for name, value in values.items()
        if name != "config_file" and (section, name) != ("BatchHub", "db_url")
        for word in (value if isinstance(value, list) else [value])
    ]


def proxy_answers(ip: str, port: int, token: str) -> bool:
    """Whether our proxy's control API answers. Raises ConfigError if somebody else's does."""
    request = urllib.request.Request(f"http://{ip}:{port}/api/routes", headers={"Authorization": f"token {token}"})
    try:
        with ask_directly(request, 2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        raise ConfigError(
            f"Something that is not our proxy answers on {ip}:{port} (HTTP {error.code}); set c.Proxy.api_port, or end it."
        ) from error
    except OSError:
        return False


def main() -> None:
    """The ``batchhub`` program."""
    run(BatchHubCommand)
