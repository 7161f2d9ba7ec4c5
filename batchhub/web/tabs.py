"""Pages that belong together and show each other as tabs: what one sets about oneself, and what admins see. A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from batchhub.core.errors import Denied
from batchhub.web.base import Page
from batchhub.web.links import Links
from batchhub.web.shared import Web


def _always(_web: Web) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Tab:
    """``offered`` says whether this hub has the page at all."""

    key: str
    title: str
    link: Callable[[Links], str]
    offered: Callable[[Web], bool] = _always


SETTINGS = (
    Tab("sessions", "Sessions", lambda links: links.sessions),
    Tab("token", "Tokens", lambda links: links.token),
    Tab("keys", "SSH keys", lambda links: links.keys, lambda web: web.services.keys is not None),
)
ADMIN = (
    Tab("servers", "Servers", lambda links: links.admin),
    Tab("people", "People", lambda links: links.people),
    Tab("audit", "Audit trail", lambda links: links.audit),
)


class TabPage(Page):
    """A page that shows the tabs beside it."""

    tab: ClassVar[str]
    tabs: ClassVar[tuple[Tab, ...]]

    def tab_page(self, template: str, **context: object) -> None:
        """Render and send; the template extends ``tabs.html``."""
        web = self.web
        shown = [(tab.key, tab.title, tab.link(web.links)) for tab in self.tabs if tab.offered(web)]
        self.page(template, tab=self.tab, tabs=shown, **context)


class SettingsPage(TabPage):
    """One of what one sets and sees about oneself."""

    here = "settings"
    tabs = SETTINGS


class AdminTab(TabPage):
    """One of what only admins see."""

    here = "admin"
    tabs = ADMIN

    async def prepare(self) -> None:
        """Raises Denied for everybody else, whatever the method."""
        await super().prepare()
        if self.visitor is not None and not self.visitor.admin:
            raise Denied("This page is for the administrators of this hub.")
