"""Signing in and out."""

from __future__ import annotations

from tornado.httputil import url_concat

from batchhub.core.errors import BadInput, Denied, HubError, TooMany
from batchhub.core.tickets import COOKIE_NAME
from batchhub.web.base import MAX_NAME, SESSION_COOKIE, XSRF_COOKIE, Page, retry_after

MAX_PASSWORD = 1024
MAX_LINK = 512


class LoginPage(Page):
    """``/hub/login``: username and password, or a one-time link whose secret came behind the ``#``."""

    signed_in = False

    def get(self) -> None:
        """The form; whoever is signed in goes on."""
        if self.visitor:
            self.redirect(self._after())
            return
        self._form()

    async def post(self) -> None:
        """Check, open a session, go on. Errors are shown above the form, with the name kept and the password not."""
        try:
            entry = await self.web.services.people.sign_in(self, self._given(), self.cookie(SESSION_COOKIE))
        except HubError as error:
            if not isinstance(error, BadInput | Denied | TooMany):
                self.log_exception(type(error), error, None)
            self.set_status(error.status)
            if error.retry:
                self.set_header("Retry-After", retry_after(error))
            self._form(str(error))
            return
        until = entry.visitor.until
        life = int((until - self.web.services.clock()).total_seconds()) if until else None
        self.put_cookie(SESSION_COOKIE, entry.cookie, self.web.links.hub, life)
        self.drop_cookie(XSRF_COOKIE, self.web.links.hub)
        self.see_other(self._after())

    def _given(self) -> dict[str, str]:
        """What was sent, bounded before anything is hashed or logged. Raises BadInput."""
        link = self.get_body_argument("link", "", strip=False)
        if link:
            if len(link) > MAX_LINK:
                raise BadInput("This sign-in link is not one of ours.")
            return {"link": link}
        username = self.get_body_argument("username", "")
        password = self.get_body_argument("password", "", strip=False)
        if not username or not password:
            raise BadInput("Both the username and the password are needed.")
        if len(username) > MAX_NAME or len(password.encode()) > MAX_PASSWORD:
            raise BadInput(f"A username has at most {MAX_NAME} characters, a password {MAX_PASSWORD} bytes.")
        return {"username": username, "password": password}

    def _after(self) -> str:
        return self.own_path(self.get_argument("next", ""), self.web.links.home)

    def _form(self, problem: str = "") -> None:
        ways = self.web.services.people.ways
        words = self.web.settings.sign_in_words or (
            "With your account on the cluster."
            if "password" in ways
            else "Open the sign-in link you were given; each works once."
        )
        self.page(
            "login.html",
            words=words,
            problem=problem,
            notice="You are signed out." if self.get_query_argument("out", "") and not problem else "",
            username=self.get_body_argument("username", "")[:MAX_NAME],
            next=self.own_path(self.get_argument("next", ""), ""),
            link="link" in ways,
            password="password" in ways,
        )


class LogoutPage(Page):
    """``/hub/logout``: a POST ends the session; a GET only asks, so that no image on another page can do it."""

    signed_in = False

    async def get(self) -> None:
        """A button. Who was idle for so long that the hub knows them no more is out already, and now in the proxy too."""
        if self.visitor is None:
            out = await self.web.services.people.sign_out(self.cookie(SESSION_COOKIE))
            self.drop_cookie(SESSION_COOKIE, self.web.links.hub)
            self.redirect(url_concat(self.web.links.login, {"out": "1"} if out else {}))
            return
        self.page("logout.html")

    async def post(self) -> None:
        """End the session: its cookies stop to work in the hub and in the proxy."""
        await self.web.services.people.sign_out(self.cookie(SESSION_COOKIE))
        if self.visitor:
            self.drop_cookie(COOKIE_NAME, self.web.links.user(self.visitor.name))
        self.drop_cookie(SESSION_COOKIE, self.web.links.hub)
        self.see_other(self.web.links.login, out="1")
