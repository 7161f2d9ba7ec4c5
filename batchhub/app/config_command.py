"""``batchhub config``: a file with every setting, and whether one's own would start a hub and a proxy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from traitlets import Unicode

from batchhub.app.certificate import doubts, names_needed
from batchhub.app.command import Command, say
from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.plan import plan_hub, without_effect
from batchhub.app.proxying import plan_proxy
from batchhub.app.reach import unusable_files
from batchhub.app.site import load_authenticators, read_site
from batchhub.app.ssh_ca import AuthorityFiles
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.base import Authenticator
from batchhub.config import traits
from batchhub.core.errors import ConfigError
from batchhub.proxy.tls import server_context
from batchhub.store.engine import is_shared, open_engine, read_url


class ConfigCommand(Command):
    """Write a configuration file, or read one."""

    name = "batchhub config"
    unlisted = frozenset({"ip", "port", "state-dir"})
    description = (
        "`batchhub config --generate` prints a configuration file with every setting, its default and its meaning; "
        "`batchhub config --check` reads yours, with the templates, keys and certificates that it names, and says what is wrong. Run it as the "
        "account that the hub has. It starts nothing and asks nobody."
    )
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        "generate": ({"ConfigCommand": {"what": "generate"}}, "Print a configuration file."),
        "check": (
            {"ConfigCommand": {"what": "check"}},
            "Read the configuration and what it names and say what is wrong.",
        ),
    }
    what = Unicode("check", help="generate or check.").tag(config=True)

    def start(self) -> None:
        """Generating needs no configuration to be readable."""
        if self.what == "generate":
            sys.stdout.write(generated_file())
            return
        super().start()

    def act(self) -> None:
        """What the class says."""
        for concern in traits.CONCERNS:
            self.trait(concern)
        hub = self.trait(traits.BatchHub)
        site = read_site(hub)
        SiteJobBuilder(site, bytes(32)).check()
        ways = {name: self.trait(cls) for name, cls in load_authenticators(hub.authenticator_class).items()}
        with TemporaryDirectory(prefix="batchhub-check-") as place:
            # Whoever checks need not be able to read the hub's own keys: these are made for the check.
            state = StateDirectory.open(place)
            AuthorityFiles(state).create()
            _check_database(plan_hub(self.trait, site, state, ways).database)
            plan = plan_proxy(
                self.trait(traits.Proxy), self.trait(traits.Hub), self.trait(traits.Sessions), state, site
            )
        if plan.settings.tls is not None:
            server_context(plan.settings.tls)
            for words in doubts(plan.settings.tls.certificate, names_needed(site.origin), utc_now()):
                say(f"Warning: {words}")
        for words in unusable_files(site.clusters):
            raise ConfigError(words)
        for words in without_effect(site, ways):
            say(f"Warning: {words}")
        if plan.authority is not None and _lacks_authority(Path(hub.state_dir)):
            say("Warning: there is no SSH authority yet: `batchhub ssh-ca create` makes one.")
        where = self.config_path or "the defaults"
        counts = f"{_count(site.clusters, 'cluster')}, {_count(site.profiles, 'profile')}"
        say(f"{where}: {counts}; nothing is wrong.")


def _check_database(text: str) -> None:
    """Its address, and that there is a driver; it is not connected to. Raises ConfigError."""
    address = read_url(text)
    if is_shared(address):
        open_engine(address, connections=1).dispose()


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _lacks_authority(state_dir: Path) -> bool:
    """As far as whoever checks can see."""
    return os.access(state_dir, os.X_OK) and not (state_dir / "ssh_ca.key").exists()


def generated_file() -> str:
    """Every setting, commented out, with its default and its meaning."""
    sections: list[type[Any]] = [*traits.CONCERNS, Authenticator, *ways_to_sign_in()]
    return "\n".join([_HEAD, *(_INHERITED.sub("", cls.class_config_section(sections)) for cls in sections)])


_INHERITED = re.compile(r"^#  See also: .*\n# c\..*\n\n?", re.MULTILINE)
"""What a class has from one above it: said there once."""


def ways_to_sign_in() -> Iterator[type[Any]]:
    """What can be named in ``authenticator_class``, and what several of them share. One that cannot be imported is left out."""
    seen: set[type[Any]] = {Authenticator}
    for point in entry_points(group="batchhub.authenticators"):
        with suppress(ImportError):
            for cls in reversed(point.load().mro()):
                if issubclass(cls, Authenticator) and cls not in seen:
                    seen.add(cls)
                    yield cls


_HEAD = """\
# BatchHub's configuration. Everything is commented out and shows its default; docs/configuration.md has whole examples.
# `batchhub config --check` reads this file and says what is wrong. What c.Authenticator has every way to sign in has too, under its own name.

c = get_config()  # noqa: F821
"""
