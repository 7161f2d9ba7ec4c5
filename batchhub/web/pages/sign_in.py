"""Signing in and out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tornado.httputil import url_concat

from batchhub.auth.departures import LIFE
from batchhub.auth.known import LIFE as KNOWN_LIFE
from batchhub.auth.sessions import HANDLE
from batchhub.core.asking import ANSWER_LIMIT, MOST_PROMPTS
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, Denied, HubError, TooMany
from batchhub.web.base import MAX_NAME, SESSION_COOKIE, XSRF_COOKIE, Page, retry_after, sentence
from batchhub.web.ports import Asking, Entry

KNOWN_COOKIE = "batchhub-known"
MAX_PASSWORD = 1024
MAX_LINK = 512
MAX_VALUE = 8192


class SignIn(Page):
    """What every page has on which somebody signs in."""

    signed_in = False

    def enter(self, entry: Entry | Asking, after: str) -> None:
        """The session begins; go on. Or more is asked first, in the same browser only."""
        if isinstance(entry, Asking):
            self.put_cookie(_asked(entry.state), entry.sealed, self.web.links.hub, LIFE)
            self.page("answer.html", asking=entry, next=after, limit=ANSWER_LIMIT)
            return
        until = entry.visitor.until
        life = int((until - self.web.services.clock()).total_seconds()) if until else None
        self.put_cookie(SESSION_COOKIE, entry.cookie, self.web.links.hub, life)
        self.drop_cookie(XSRF_COOKIE, self.web.links.hub)
        if entry.known:
            self.put_cookie(KNOWN_COOKIE, entry.known, self.web.links.login, int(KNOWN_LIFE.total_seconds()))
        self.see_other(after)

    def refuse(self, error: HubError) -> None:
        """The sign-in page again, with the error's sentence; the name is kept and the password not."""
        if not isinstance(error, BadInput | Denied | TooMany):
            self.log_exception(type(error), error, None)
        self.set_status(error.status)
        if error.retry:
            self.set_header("Retry-After", retry_after(error))
        self.form(sentence(error))

    def after(self) -> str:
        """Where to go from here."""
        return self.own_path(self.get_argument("next", ""), self.web.links.home)

    def form(self, problem: str = "") -> None:
        """Everything the site offers."""
        ways = self.web.services.people.ways
        kinds = {way.kind for way in ways}
        self.page(
            "login.html",
            words=self.web.settings.sign_in_words or next(words for kind, words in _WORDS if kind in kinds or not kind),
            problem=problem,
            notice="You are signed out." if self.get_query_argument("out", "") and not problem else "",
            username=self.get_body_argument("username", "")[:MAX_NAME],
            chosen=self.get_body_argument("way", "")[:MAX_NAME],
            next=self.own_path(self.get_argument("next", ""), ""),
            link="link" in kinds,
            passwords=[way for way in ways if way.kind == "password"],
            others=[way for way in ways if way.kind == "redirect"],
            negotiates=[way for way in ways if way.kind == "negotiate"],
        )


_WORDS = (
    ("password", "With your account on the cluster."),
    ("redirect", "With an account you have already."),
    ("negotiate", "With the Kerberos ticket that your computer has."),
    ("lti13", "Open this hub from your course."),
    ("lti11", "Open this hub from your course."),
    ("link", "Open the sign-in link you were given; each works once."),
    ("request", "Your browser has not been signed in by the site in front of this hub."),
    ("", "Nobody can sign in here at the moment."),
)
"""What the page says, by the first kind of sign-in that is offered."""


class LoginPage(SignIn):
    """``/hub/login``: a form, buttons that lead to other sign-in pages, or nothing at all where the request itself says who it is.

    The secret of a one-time link comes behind the ``#``, and is posted.
    """

    async def get(self) -> None:
        """The form; whoever is signed in goes on."""
        if self.visitor:
            self.redirect(self.after())
            return
        people, out = self.web.services.people, self.get_query_argument("out", "")
        by_request = next((way for way in people.ways if way.kind == "request"), None)
        if by_request is not None and not out:
            await self._try(by_request.name, {})
            return
        only = people.ways[0] if len(people.ways) == 1 else None
        if self.web.settings.auto_login and only is not None and only.kind == "redirect" and not out:
            self.redirect(self.web.links.leave(only.name, self.after()))
            return
        if self.web.settings.auto_login and only is not None and only.kind == "negotiate" and not out:
            self.redirect(self.web.links.negotiate_then(self.after()))
            return
        self.form()

    async def post(self) -> None:
        """Check, open a session, go on. Errors are shown above the form."""
        try:
            way, data = self._given()
        except HubError as error:
            self.refuse(error)
            return
        await self._try(way, data)

    async def _try(self, way: str, data: Mapping[str, str]) -> None:
        try:
            entry = await self.web.services.people.sign_in(
                self, way, data, self.cookie(SESSION_COOKIE), known=self.cookie(KNOWN_COOKIE)
            )
        except HubError as error:
            self.refuse(error)
            return
        self.enter(entry, self.after())

    def _given(self) -> tuple[str, dict[str, str]]:
        """The way, and what was sent, bounded before anything is hashed or logged. Raises BadInput."""
        link = self.get_body_argument("link", "", strip=False)
        if link:
            if len(link) > MAX_LINK:
                raise BadInput("This sign-in link is not one of ours.")
            return self._way("link"), {"token": link}
        username = self.get_body_argument("username", "")
        password = self.get_body_argument("password", "", strip=False)
        if not username or not password:
            raise BadInput("Both the username and the password are needed.")
        if len(username) > MAX_NAME or len(password.encode()) > MAX_PASSWORD:
            raise BadInput(f"A username has at most {MAX_NAME} characters, a password {MAX_PASSWORD} bytes.")
        return self._way("password"), {"username": username, "password": password}

    def _way(self, kind: str) -> str:
        """The one that was chosen, or the first of its kind. Raises Denied."""
        names = [way.name for way in self.web.services.people.ways if way.kind == kind]
        chosen = self.get_body_argument("way", "") or (names[0] if names else "")
        if chosen not in names:
            raise Denied("One does not sign in this way here.")
        return chosen


class NegotiatePage(SignIn):
    """``/hub/login/negotiate``: the browser itself says who somebody is (RFC 4559).

    It is asked once: a token that does not count is answered without asking again, so that no browser opens a password dialogue or begins anew
    for ever. Scripts cannot bring somebody else's token (:meth:`Handler._check_origin`), and whoever is signed in stays who they are.
    """

    async def get(self) -> None:
        """Ask, or take the answer."""
        if self.visitor:
            self.redirect(self.after())
            return
        people = self.web.services.people
        way = next((way for way in people.ways if way.kind == "negotiate"), None)
        try:
            if way is None:
                raise Denied("One does not sign in this way here.")
            token = self._token()
            if token is None:
                self.set_status(401)
                self.set_header("WWW-Authenticate", "Negotiate")
                self.form(f"Your browser has no ticket of {way.title} for this hub, or is not set up to show it.")
                return
            entry = await people.sign_in(self, way.name, {"negotiate": token}, self.cookie(SESSION_COOKIE))
        except HubError as error:
            self.refuse(error)
            return
        self.enter(entry, self.after())

    def _token(self) -> str | None:
        """``None`` if there is none. Raises BadInput for more than one."""
        lines = self.request.headers.get_list("Authorization")
        given = [line.strip().partition(" ")[2].strip() for line in lines if line.lower().startswith("negotiate ")]
        if len(lines) > 1:
            raise BadInput("Your browser sent more than one answer.")
        return given[0] if given else None


class AnswerPage(SignIn):
    """``/hub/login/answer``: what a way to sign in asks after name and password, such as a code; there may be several such pages.

    Nothing is left of them in the address, and each is good once: what was answered wrongly begins anew.
    """

    def get(self) -> None:
        """Somebody went back, or loaded the page again: from the beginning."""
        self.redirect(self.web.links.login)

    async def post(self) -> None:
        """Pass the answers on."""
        state = self.get_body_argument("asked", "")
        cookie = _asked(state)
        sealed = self.cookie(cookie)
        self.drop_cookie(cookie, self.web.links.hub)
        answers = self.get_body_arguments("answer", strip=False)
        people = self.web.services.people
        try:
            if len(answers) > MOST_PROMPTS or any(len(answer.encode()) > ANSWER_LIMIT for answer in answers):
                raise BadInput(f"An answer has at most {ANSWER_LIMIT} bytes.")
            session, known = self.cookie(SESSION_COOKIE), self.cookie(KNOWN_COOKIE)
            entry = await people.answer(self, state, sealed, answers, session, known=known)
        except HubError as error:
            self.refuse(error)
            return
        self.enter(entry, self.after())


class LeavePage(SignIn):
    """``/hub/oauth_login?way=NAME&next=PATH``: on to somebody else's sign-in page."""

    guarded = False

    async def get(self) -> None:
        """The browser takes a sealed cookie along, so that only it can come back."""
        people, links = self.web.services.people, self.web.links
        offered = [way.name for way in people.ways if way.kind == "redirect"]
        way = self.get_query_argument("way", offered[0] if offered else "")
        data = {name: self.get_query_argument(name)[:MAX_VALUE] for name in list(self.request.query_arguments)[:20]}
        try:
            if way not in offered:
                raise Denied("One does not sign in this way here.")
            back = links.come_back(way if len(offered) > 1 else "")
            leaving = await people.leave(
                self, way, data, self.after(), f"{self.request.protocol}://{self.request.host}{back}"
            )
        except HubError as error:
            self.refuse(error)
            return
        self.put_cookie(journey_cookie(leaving.state), leaving.sealed, links.hub, LIFE)
        self.redirect(leaving.url)


class ComeBackPage(SignIn):
    """``/hub/oauth_callback``, or one of its own for each of several ways: back from there.

    The cookie that went along proves that this browser began it, and with which way.
    """

    guarded = False

    async def get(self) -> None:
        """Open a session, go on."""
        names = list(self.request.query_arguments)
        if len(names) > 20:
            self.refuse(BadInput("This is not an answer of a sign-in page."))
            return
        data = {name: self.get_query_argument(name)[:MAX_VALUE] for name in names}
        journey = journey_cookie(data.get("state", ""))
        sealed = self.cookie(journey)
        self.drop_cookie(journey, self.web.links.hub)
        try:
            entry, after = await self.web.services.people.come_back(self, data, sealed, self.cookie(SESSION_COOKIE))
        except HubError as error:
            self.refuse(error)
            return
        self.enter(entry, self.own_path(after, self.web.links.home))


def journey_cookie(state: str) -> str:
    """The cookie's name: one for each sign-in that is under way, in other tabs too."""
    return f"batchhub-away-{hashlib.sha256(state.encode()).hexdigest()[:12]}"


def _asked(state: str) -> str:
    """The cookie's name: one for each question that is open, in other tabs too."""
    return f"batchhub-asked-{hashlib.sha256(state.encode()).hexdigest()[:12]}"


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
            self.note(DeedKind.SIGN_OUT, self.visitor.name, f"session {self.visitor.session[:HANDLE]}")
        self.leave()
