"""One's SSH keys, for clusters where the hub acts as each person by a key of their own."""

from __future__ import annotations

from batchhub.core.deeds import DeedKind
from batchhub.core.errors import HubError, NotFound
from batchhub.web.ports import KeyBook, KeyTest
from batchhub.web.tabs import SettingsPage


class KeysPage(SettingsPage):
    """``/hub/settings/keys``: make, show, test, replace, remove."""

    tab = "keys"

    async def get(self) -> None:
        """All of them."""
        await self._show()

    async def post(self) -> None:
        """One button. What a test said is printed in the answer itself; a reload tests again."""
        book, user = self._book(), self.me.name
        cluster, action = self.get_body_argument("cluster", "")[:64], self.get_body_argument("do", "")
        try:
            if action == "test":
                await self._show(cluster, await book.test(user, cluster))
                return
            if action == "make":
                await book.make(user, cluster)
                self.note(DeedKind.KEY_MADE, user, f"for the cluster {cluster}")
            elif action == "remove":
                await book.remove(user, cluster)
                self.note(DeedKind.KEY_DELETED, user, f"for the cluster {cluster}")
            else:
                raise NotFound("This page has no such button.")
        except HubError as error:
            self.set_status(error.status)
            await self._show(cluster, problem=str(error))
            return
        self.see_other(self.web.links.keys)

    def _book(self) -> KeyBook:
        if self.web.services.keys is None:
            raise NotFound("No cluster here wants a key of your own.")
        return self.web.services.keys

    async def _show(self, cluster: str = "", test: KeyTest | None = None, problem: str = "") -> None:
        keys = await self._book().keys(self.me.name)
        self.tab_page("keys.html", keys=keys, tested=cluster, test=test, problem=problem)
