import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core import handshake
from batchhub.core.errors import BadInput, ConfigError
from batchhub.job.offers import offer_key

CONNECTION = {
    "version": 1,
    "host": "n01.cluster.example",
    "addresses": ["10.1.2.3", "2001:db8::5"],
    "port": 40123,
    "socket": "",
    "pid": 4711,
    "nonce": "0123456789abcdef0123456789abcdef",
    "generation": 2,
    "time": 1795417608.943,
}
EXIT = {"version": 1, "code": 3, "signal": None, "word": "application exited with 3", "time": 1795417608}


def read(**changes: object) -> handshake.Connection:
    return handshake.read_connection(json.dumps({**CONNECTION, **changes}).encode())


def test_a_connection() -> None:
    assert read() == handshake.Connection(
        host="n01.cluster.example",
        addresses=("10.1.2.3", "2001:db8::5"),
        port=40123,
        socket="",
        pid=4711,
        nonce="0123456789abcdef0123456789abcdef",
        generation=2,
        time=datetime(2026, 11, 23, 7, 6, 48, 943000, tzinfo=UTC),
    )
    assert read(port=0, socket="/home/a/.batchhub/jobs/x/app.sock").socket == "/home/a/.batchhub/jobs/x/app.sock"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": True},
        {"more": 1},
        {"host": ""},
        {"host": "a b"},
        {"host": "a\nb"},
        {"host": "-n1"},
        {"host": 5},
        {"host": "x" * 300},
        {"addresses": "10.1.2.3"},
        {"addresses": ["n01"]},
        {"addresses": [5]},
        {"addresses": ["0.0.0.0"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["fe80::1%eth0"]},
        {"addresses": ["10.0.0.1"] * 33},
        {"port": "80"},
        {"port": 65536},
        {"port": -1},
        {"port": True},
        {"port": 1.5},
        {"port": 0},
        {"socket": "/tmp/x"},
        {"port": 0, "socket": "relative"},
        {"port": 0, "socket": "/tmp/../etc/x"},
        {"port": 0, "socket": "/" + "x" * 107},
        {"pid": 0},
        {"nonce": "zz"},
        {"nonce": "0123456789ABCDEF0123456789abcdef"},
        {"generation": 0},
        {"time": "now"},
        {"time": -1},
        {"time": 1e300},
        {"time": True},
    ],
)
def test_a_connection_that_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        read(**changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 10000,
        b" " * 20000,
        b'{"version":1}',
        json.dumps(CONNECTION).replace('"port": 40123', '"port": 40123, "port": 1').encode(),
        json.dumps(CONNECTION).replace("1795417608.943", "NaN").encode(),
        json.dumps(CONNECTION).replace("1795417608.943", "9" * 5000).encode(),
    ],
)
def test_data_that_is_no_connection(data: bytes) -> None:
    with pytest.raises(BadInput):
        handshake.read_connection(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (handshake.read_connection, handshake.read_exit):
        with pytest.raises(BadInput):
            reader(data)


def test_an_exit_record() -> None:
    found = handshake.read_exit(json.dumps(EXIT).encode())
    assert (found.code, found.signal, found.word) == (3, None, "application exited with 3")
    found = handshake.read_exit(json.dumps({**EXIT, "code": None, "signal": 9}).encode())
    assert (found.code, found.signal) == (None, 9)


@pytest.mark.parametrize(
    "changes", [{"code": 256}, {"code": -1}, {"signal": 0}, {"word": "a\nb"}, {"word": "x" * 501}, {"x": 1}]
)
def test_an_exit_record_that_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        handshake.read_exit(json.dumps({**EXIT, **changes}).encode())


def test_the_token_is_derived_and_differs() -> None:
    key = b"k" * 32
    tokens = {handshake.server_token(key, server, count) for server in ("a", "b", "a1") for count in (1, 2, 11)}
    assert len(tokens) == 9
    assert {len(token) for token in tokens} == {43}
    assert handshake.server_token(key, "a", 1) == handshake.server_token(key, "a", 1)
    with pytest.raises(ConfigError):
        handshake.server_token(b"short", "a", 1)


def launch(**changes: object) -> dict[str, object]:
    options: dict[str, object] = {
        "argv": ("lab", "{port}"),
        "env": {"A": "{token}", "B": None},
        "base_url": "/user/a/",
        "ready_path": "/x",
    }
    options.update(changes)
    return json.loads(handshake.launch_document(**options))  # type: ignore[arg-type]


def test_a_launch_document() -> None:
    assert launch(ports=(40000, 40100)) == {
        "version": 1,
        "argv": ["lab", "{port}"],
        "env": {"A": "{token}", "B": None},
        "bind": "127.0.0.1",
        "ports": [40000, 40100],
        "socket": False,
        "base_url": "/user/a/",
        "ready_path": "/x",
        "guard_path": "",
        "scheme": "token",
        "ready_timeout": 300,
        "callback_url": "",
        "dial_in": None,
        "time_up": None,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("lab", "--token={token}")},
        {"argv": ("lab", "a\x00")},
        {"env": {"a b": "c"}},
        {"env": {"A": "\x1b"}},
        {"argv": ("lab", *["x" * 16000] * 5)},
        {"base_url": "user"},
        {"ready_path": "/a b"},
        {"ready_path": "/%zz"},
        {"guard_path": "x"},
        {"bind": "10.0.0.1"},
        {"ports": (80, 90)},
        {"ports": (5000, 4000)},
        {"ready_timeout": 0},
        {"ready_timeout": float("nan")},
        {"callback_url": "ftp://x"},
        {"callback_url": "http://user@x/"},
        {"callback_url": "http://x/?token=1"},
        {"scheme": "Digest"},
    ],
)
def test_a_launch_document_that_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        launch(**changes)


DIAL_IN = handshake.DialIn("hub.example.org", 8022, "abcdefghijkl", "ssh-ed25519 " + "A" * 68)


def test_how_a_job_dials_in() -> None:
    assert launch(dial_in=DIAL_IN)["dial_in"] == {
        "host": "hub.example.org",
        "port": 8022,
        "offer": "abcdefghijkl",
        "host_key": "ssh-ed25519 " + "A" * 68,
        "ssh": "ssh",
        "needed": True,
    }
    for host in ("10.0.0.1", "fd00::1", "hub"):
        replace(DIAL_IN, host=host).check()
    replace(DIAL_IN, ssh="/opt/openssh-9.8/bin/ssh").check()


@pytest.mark.parametrize(
    "change",
    [
        {"host": "-oProxyCommand=x"},
        {"host": "a b"},
        {"host": ""},
        {"port": 0},
        {"port": 65536},
        {"offer": ""},
        {"offer": "a b"},
        {"host_key": "ssh-rsa AAAA"},
        {"host_key": "ssh-ed25519 " + "A" * 68 + "\nevil"},
        {"ssh": "ssh -v"},
        {"ssh": "-v"},
        {"ssh": ""},
    ],
)
def test_a_way_to_dial_in_that_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        launch(dial_in=replace(DIAL_IN, **change))  # type: ignore[arg-type]


def test_secrets() -> None:
    plain = {"version": 1, "generation": 3, "token": "t" * 43, "offer_key": "", "env": {}}
    assert json.loads(handshake.secrets_document(3, "t" * 43)) == plain
    private = offer_key(b"k" * 32, "abcdefghijkl", 3).private
    assert json.loads(handshake.secrets_document(3, "t" * 43, private)) == {**plain, "offer_key": private}
    with pytest.raises(BadInput, match="not in OpenSSH's format"):
        handshake.secrets_document(3, "t" * 43, private.replace("OPENSSH", "RSA"))
    for generation, token in ((0, "t" * 43), (1, "short"), (1, "t" * 42 + "\n")):
        with pytest.raises(BadInput) as caught:
            handshake.secrets_document(generation, token)
        assert "tttt" not in str(caught.value)
    env = {"KEY": "é\n", "B": ""}
    assert json.loads(handshake.secrets_document(3, "t" * 43, env=env)) == {**plain, "env": env}
    for bad in ({"A B": "hunter2"}, {"A": "hunter2\0"}, {"A": "hunter2" * handshake.MAX_SECRETS}):
        with pytest.raises(BadInput) as caught:
            handshake.secrets_document(3, "t" * 43, env=bad)
        assert "hunter2" not in str(caught.value)


def test_authorization() -> None:
    assert [handshake.authorization(scheme, "T") for scheme in handshake.SCHEMES] == [
        "token T",
        "Bearer T",
        "Basic YmF0Y2hodWI6VA==",
        "",
    ]
