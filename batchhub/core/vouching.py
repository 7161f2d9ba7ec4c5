"""What the proxy knows of who asks, told to the hub so that nobody else can say it: the address, and what a front end it trusts has said.

The hub's own port is open to every process of its machine, so a plain header proves nothing there. The proxy seals what it knows with the key
that both hold, for a minute; a proxy that was started before a header was configured does not seal that, and then nobody is signed in by it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta

HEADER = "X-BatchHub-Vouched"
"""What the proxy's word travels in."""
ADDRESS = ":address"
"""Among what is sealed: where the request came from. No header has such a name."""
LIFE = timedelta(seconds=60)
"""How far the clocks of hub and proxy may differ."""
LIMIT = 8192
"""Characters of the sealed text; longer is refused unread, and longer is not sealed."""

_PURPOSE = b"batchhub vouched headers\0"


def vouch(key: bytes, said: Mapping[str, str], now: datetime) -> str:
    """The values, by lower-case header name, as one line of ASCII; empty if it would be too long."""
    body = base64.urlsafe_b64encode(json.dumps([int(now.timestamp()), dict(said)]).encode())
    text = f"{body.decode()}.{_mac(key, body)}"
    return text if len(text) <= LIMIT else ""


def vouched(key: bytes, text: str, now: datetime) -> Mapping[str, str]:
    """What was sealed; nothing if it was not sealed with this key, or not now."""
    body, _, mac = text.partition(".")
    if len(text) > LIMIT or not text.isascii() or not hmac.compare_digest(mac, _mac(key, body.encode())):
        return {}
    try:
        at, said = json.loads(base64.urlsafe_b64decode(body))
    except (ValueError, binascii.Error):
        return {}
    return said if abs(now.timestamp() - at) <= LIFE.total_seconds() else {}


def _mac(key: bytes, body: bytes) -> str:
    return hmac.new(key, _PURPOSE + body, hashlib.sha256).hexdigest()
