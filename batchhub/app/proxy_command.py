"""``batchhub proxy``. A module of its own, so that the proxy's processes need not load the hub: each starts sooner and is smaller."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from typing import Any, ClassVar

from batchhub.app.certificate import doubts, names_needed
from batchhub.app.command import Command, run, set_up_logging
from batchhub.app.proxying import plan_proxy, run_proxy
from batchhub.app.site import read_site
from batchhub.app.standalone import Standalone, pid_file, read_standalone, standalone_chosen
from batchhub.app.standalone_options import TOKEN, options_page
from batchhub.app.state import utc_now
from batchhub.config import traits
from batchhub.core.errors import ConfigError
from batchhub.proxy.spawn import supervising

log = logging.getLogger(__name__)


class ProxyCommand(Command):
    """Start the proxy alone."""

    name = "batchhub proxy"
    description = (
        "Start the proxy: public socket, routes, tunnels, everybody's connections. Restarting the hub does not touch it. With "
        f"{TOKEN} in the environment and no -f/--config it takes configurable-http-proxy's place instead: its options, its API, "
        f"no hub of ours behind it ({TOKEN}=… batchhub proxy --help; docs/proxy.md)."
    )
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.aliases,
        "workers": ("Proxy.workers", "N|Processes that carry the traffic; one if not said."),
    }
    _alone: Standalone | None = None

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Stand-alone mode has options of its own, which are read before traitlets sees them. Raises ConfigError."""
        words = list(sys.argv[1:] if argv is None else argv)
        if standalone_chosen(words, os.environ):
            self._alone = read_standalone(words, os.environ)
        else:
            super().parse_command_line(words)

    def start(self) -> None:
        """What the command does."""
        if self._alone is None:
            super().start()
            return
        set_up_logging(self._alone.log_level)
        with pid_file(self._alone.pid_file if supervising() else None):
            run_proxy(self._alone.plan)

    def emit_help(self, classes: bool = False) -> Generator[str, None, None]:
        """Whoever has not set the token yet sees the other mode's options all the same."""
        yield from super().emit_help(classes)
        if not classes:
            yield from ("", f"With {TOKEN} in the environment:", "", options_page())

    def act(self) -> None:
        """What the class says."""
        if self.config_path is None and not self.cli_config.get("BatchHub"):
            raise ConfigError(
                f"There is no configuration: name one with --config=FILE. To stand in for configurable-http-proxy, set {TOKEN}."
            )
        site = read_site(self.trait(traits.BatchHub))
        plan = plan_proxy(
            self.trait(traits.Proxy), self.trait(traits.Hub), self.trait(traits.Sessions), self.state(), site
        )
        if plan.settings.tls is not None and supervising():
            for words in doubts(plan.settings.tls.certificate, names_needed(site.origin), utc_now()):
                log.warning("%s", words)
        run_proxy(plan)


def main(argv: list[str]) -> None:
    """``batchhub proxy``, with these arguments."""
    run(ProxyCommand, argv)
