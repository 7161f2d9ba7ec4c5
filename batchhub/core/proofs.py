"""What shows that a job is this hub's own: ``server.json`` in its directory, the facts of its run signed with the hub's key.

A job's name proves nothing: anybody may give a job any name, and another BatchHub may work on the same cluster. The owner of the directory
may alter or copy the file, but not write one that fits. The signature is looked at before a word of the facts is read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from batchhub.core.errors import BadInput, ConfigError, Denied
from batchhub.core.handshake import VERSION, load_document
from batchhub.core.model import NO_OPTIONS, OptionValue, Server, ServerId, UserName, read_server_id, read_server_name

PROOF = "server.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run's row is made of again, as :class:`~batchhub.core.model.Server` has it; ``generation`` is of the newest secrets written."""

    id: ServerId
    user: UserName
    name: str
    cluster: str
    profile: str
    account: str
    created: datetime
    generation: int = 1
    options: Mapping[str, OptionValue] = field(default_factory=lambda: NO_OPTIONS)


def proof_document(key: bytes, server: Server) -> bytes:
    """``server.json`` of a run. ``key`` is the hub's, at least 32 bytes, else ConfigError. Holds no secret."""
    facts = {
        "id": server.id,
        "user": server.user,
        "name": server.name,
        "cluster": server.cluster,
        "profile": server.profile,
        "account": server.account,
        "created": server.created.isoformat(),
        "generation": server.generation,
        "options": dict(server.options),
    }
    text = json.dumps(facts, ensure_ascii=True)
    return json.dumps({"version": VERSION, "facts": text, "proof": _signature(key, text)}, indent=1).encode() + b"\n"


def read_proof(key: bytes, data: bytes) -> Facts:
    """The facts, if this hub signed them. Raises BadInput for what is no such file, Denied for one that another wrote or altered."""
    found = load_document(PROOF, data, ("version", "facts", "proof"))
    text, proof = found["facts"], found["proof"]
    if not isinstance(text, str) or not isinstance(proof, str):
        raise BadInput(f"{PROOF}: facts and proof must be text.")
    if not hmac.compare_digest(_signature(key, text).encode(), proof.encode("utf-8", "replace")):
        raise Denied(f"{PROOF} was not signed by this hub, or was altered.")
    return _read_facts(text)


def _read_facts(text: str) -> Facts:
    """Our own words, though perhaps of another version."""
    try:
        facts = json.loads(text)
        created = datetime.fromisoformat(facts["created"])
        if created.tzinfo is None:
            raise ValueError("a time without a zone")
        return Facts(
            id=read_server_id(facts["id"]),
            user=UserName(facts["user"]),
            name=read_server_name(facts["name"]),
            cluster=facts["cluster"],
            profile=facts["profile"],
            account=facts["account"],
            created=created,
            generation=facts["generation"],
            options=facts["options"],
        )
    except (ValueError, TypeError, KeyError, BadInput) as error:
        raise BadInput(f"{PROOF} is of a version this hub does not read.") from error


def _signature(key: bytes, text: str) -> str:
    """HMAC-SHA256 in hexadecimal; the words before it keep it apart from whatever else the key signs."""
    if len(key) < 32:
        raise ConfigError("The key that servers' facts are signed with must have at least 32 bytes.")
    message = b"batchhub server facts\0" + text.encode("utf-8", "replace")
    return hmac.digest(key, message, hashlib.sha256).hex()
