"""Pages about errors from elsewhere: asked of an address (JupyterHub's ``/hub/error``), or read from a directory.

A page that cannot be had is ``None``, and the proxy's own is sent instead: the source is often the very thing that is down.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from batchhub.core.errors import HubError
from batchhub.proxy import pages
from batchhub.proxy.asking import Ear, asking
from batchhub.proxy.settings import ErrorPages
from batchhub.proxy.target import Target, read_target
from batchhub.proxy.upstream import Opener, Pool
from batchhub.proxy.wire import Refused, RequestHead, ResponseHead

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for the whole page
MAX_PAGE = 1024 * 1024
AT_ONCE = 64
_HEAD_LIMIT = 64 * 1024
_CARRIED = frozenset({b"content-type", b"content-encoding"})
_WORDS = {
    404: "No route leads to this address.",
    500: "The proxy could not pass this request on; its log has the details.",
    503: "The application behind this address does not answer just now.",
}
_HTML = b"Content-Type: text/html; charset=utf-8\r\n"


@dataclass(frozen=True, slots=True)
class Page:
    """``lines`` are the headers that describe ``body``."""

    lines: bytes
    body: bytes


def status(code: int) -> int:
    """configurable-http-proxy knows one status for a target that does not answer, answers nonsense or takes too long."""
    return 503 if code in {502, 504} else code


def answer(code: int, words: str, page: Page | None, head: RequestHead, *, close: bool) -> bytes:
    """The whole answer: around a page from elsewhere, or our own. For an upgrade it is the status alone, as configurable-http-proxy's."""
    if head.upgrade:
        return pages.bare(code, close=close)
    if page is None:
        return pages.answer(code, _WORDS.get(code, words), head, close=close)
    lines = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\nCache-Control: no-store\r\n%b\r\n" % (
        code,
        HTTPStatus(code).phrase.encode("ascii"),
        page.lines,
        len(page.body),
        b"Connection: close\r\n" if close else b"",
    )
    return lines if head.method == b"HEAD" else lines + page.body


class ErrorSource:
    """Where the pages come from. So many are asked for at once, and no more: a flood of errors must not become one of questions."""

    __slots__ = ("_asking", "_opener", "_pool", "_settings", "_target")

    def __init__(self, settings: ErrorPages, opener: Opener, pool: Pool) -> None:
        """Raises BadInput for an address that is none."""
        self._settings = settings
        self._target: Target | None = read_target(settings.target) if settings.target else None
        self._opener = opener
        self._pool = pool
        self._asking = 0

    def has(self, code: int) -> bool:
        """Whether there may be a page about this error."""
        return code in _WORDS and (self._target is not None or self._settings.directory is not None)

    async def page(self, code: int, url: str) -> Page | None:
        """The page about this error at this address, or ``None``."""
        if self._asking >= AT_ONCE:
            return None
        self._asking += 1
        try:
            if self._target is not None:
                return await self._fetch(self._target, code, url)
            if self._settings.directory is not None:
                return await asyncio.to_thread(_read, self._settings.directory, code)
        except (HubError, OSError, TimeoutError) as error:
            log.warning("There is no page about error %d: %s", code, error or "it took too long.")
        finally:
            self._asking -= 1
        return None

    async def _fetch(self, target: Target, code: int, url: str) -> Page:
        where, ear = f"{target.prefix}/{code}?url={quote(url, safe='')}", _Whole()
        async with (
            asyncio.timeout(PATIENCE),
            asking(self._opener, self._pool, target, where, ear, head_limit=_HEAD_LIMIT),
        ):
            return await ear.heard


def _read(directory: Path, code: int) -> Page | None:
    for name in (f"{code}.html", "error.html"):
        try:
            with (directory / name).open("rb") as file:
                return Page(_HTML, file.read(MAX_PAGE))
        except FileNotFoundError:
            continue
    return None


class _Whole(Ear[Page]):
    __slots__ = ("_body", "_lines")

    def __init__(self) -> None:
        super().__init__()
        self._lines = b""
        self._body = bytearray()

    def answered(self, head: ResponseHead) -> None:
        if head.status >= 200:
            self._lines = b"".join(
                b"%b: %b\r\n" % (name, value) for lower, name, value in head.headers if lower in _CARRIED
            )

    def answer_data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_PAGE:
            self.broken(Refused(502, f"it is larger than {MAX_PAGE} bytes."))

    def answer_end(self) -> None:
        self.hear(Page(self._lines, bytes(self._body)))
