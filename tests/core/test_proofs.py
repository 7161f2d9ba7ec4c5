"""``server.json``: what the hub signed is read back; what anybody else wrote, altered or cut is not."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, ConfigError, Denied, HubError
from batchhub.core.model import Server, ServerId, UserName
from batchhub.core.proofs import Facts, proof_document, read_proof

KEY, OTHER = b"k" * 32, b"o" * 32
NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
SERVER = Server(
    id=ServerId("abcdefghijkl"),
    user=UserName("zoë"),
    name="big",
    cluster="hpc",
    profile="lab",
    account="zoe",
    created=NOW,
    since=NOW,
    options={"cores": 2, "memory": 1.5, "note": 'a"b', "gpu": False},
    generation=3,
)


def test_the_facts_come_back() -> None:
    assert read_proof(KEY, proof_document(KEY, SERVER)) == Facts(
        SERVER.id, SERVER.user, "big", "hpc", "lab", "zoe", NOW, 3, SERVER.options
    )


def test_another_sites_hub_and_an_altered_fact_are_denied() -> None:
    document = json.loads(proof_document(KEY, SERVER))
    with pytest.raises(Denied, match="not signed by this hub"):
        read_proof(OTHER, json.dumps(document).encode())
    for old, new in (("zoe", "root"), ("abcdefghijkl", "zzzzzzzzzzzz"), ('"generation": 3', '"generation": 4')):
        altered = document | {"facts": document["facts"].replace(old, new)}
        assert altered != document
        with pytest.raises(Denied):
            read_proof(KEY, json.dumps(altered).encode())


@pytest.mark.parametrize(
    "change",
    [{"proof": ""}, {"proof": "ü"}, {"proof": 1}, {"facts": {}}, {"facts": "\ud800"}, {"version": 2}, {"more": 1}],
)
def test_what_is_no_such_file(change: dict[str, object]) -> None:
    with pytest.raises((BadInput, Denied)):
        read_proof(KEY, json.dumps(json.loads(proof_document(KEY, SERVER)) | change).encode())


def test_signed_facts_of_a_later_version_are_not_guessed_at() -> None:
    for odd in (replace(SERVER, created=datetime(2026, 1, 1)), replace(SERVER, id=ServerId("x"))):
        with pytest.raises(BadInput, match="does not read"):
            read_proof(KEY, proof_document(KEY, odd))


def test_a_short_key_is_no_key() -> None:
    with pytest.raises(ConfigError):
        proof_document(b"short", SERVER)


@given(st.binary(max_size=300) | st.integers(0, 380).map(lambda at: proof_document(KEY, SERVER)[:at]))
def test_whatever_somebody_wrote_there_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(HubError):
        read_proof(KEY, data)
