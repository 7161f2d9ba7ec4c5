"""A browser's description of itself, in the few words by which a person knows it again. Pure."""

from __future__ import annotations

_BROWSERS = (
    # A browser names those it wants to be taken for as well, so the order counts.
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("python-requests/", "a Python program"),
    ("Python/", "a Python program"),
    ("aiohttp/", "a Python program"),
)
_SYSTEMS = (
    ("iPhone", "an iPhone"),
    ("iPad", "an iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
    ("FreeBSD", "FreeBSD"),
)


def agent_words(agent: str) -> str:
    """``Firefox on Linux``; as much of it as can be told."""
    browser = next((words for mark, words in _BROWSERS if mark in agent), "")
    system = next((words for mark, words in _SYSTEMS if mark in agent), "")
    if not (browser or system):
        return "an unknown browser"
    return f"{browser or 'a browser'} on {system}" if system else browser
