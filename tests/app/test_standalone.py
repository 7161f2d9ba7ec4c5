"""The command line of configurable-http-proxy, read by ours."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from batchhub.app.standalone import pid_file, read_standalone, standalone_chosen
from batchhub.core.errors import ConfigError
from batchhub.proxy.forward import Forwarding
from batchhub.proxy.settings import ErrorPages, Metrics, ProxySettings, Redirect
from tests.proxy.certificates import Authority

TOKEN = "a-token-of-enough-characters"
ENV = {"CONFIGPROXY_AUTH_TOKEN": TOKEN}
DOCS = Path(__file__).parents[2] / "docs" / "proxy.md"

# As `configurable-http-proxy --help` of version 5.3 lists them.
THEIRS = [
    "--ip",
    "--port",
    "--socket",
    "--ssl-key",
    "--ssl-cert",
    "--ssl-ca",
    "--ssl-request-cert",
    "--ssl-reject-unauthorized",
    "--ssl-protocol",
    "--ssl-ciphers",
    "--ssl-allow-rc4",
    "--ssl-dhparam",
    "--api-ip",
    "--api-port",
    "--api-socket",
    "--api-ssl-key",
    "--api-ssl-cert",
    "--api-ssl-ca",
    "--api-ssl-request-cert",
    "--api-ssl-reject-unauthorized",
    "--client-ssl-key",
    "--client-ssl-cert",
    "--client-ssl-ca",
    "--client-ssl-request-cert",
    "--client-ssl-reject-unauthorized",
    "--default-target",
    "--error-target",
    "--error-path",
    "--redirect-port",
    "--redirect-to",
    "--pid-file",
    "--no-x-forward",
    "--no-prepend-path",
    "--no-include-prefix",
    "--auto-rewrite",
    "--change-origin",
    "--protocol-rewrite",
    "--custom-header",
    "--insecure",
    "--host-routing",
    "--metrics-ip",
    "--metrics-port",
    "--metrics-socket",
    "--log-level",
    "--timeout",
    "--proxy-timeout",
    "--storage-backend",
    "--keep-alive-timeout",
    "--version",
    "--help",
]


def read(*words: str, **environ: str) -> ProxySettings:
    return read_standalone(words, {**ENV, **environ}).plan.settings


@pytest.mark.parametrize(
    ("words", "token", "alone"),
    [
        ("", True, True),
        ("", False, False),
        ("--port=1", True, True),
        ("--port=1 --ip x --log-level=debug", False, False),
        ("--default-target=http://x", False, True),  # and then the token is asked for
        ("--config=x", True, False),
        ("--config x", True, False),
        ("-f x", True, False),
        ("-fx", True, False),
        ("--state-dir=x", True, False),
        ("--Proxy.port=1", True, False),
        ("--help", False, False),
        ("--help", True, True),
        ("--custom-header a.b:c", True, True),
    ],
)
def test_which_mode(words: str, token: bool, alone: bool) -> None:
    assert standalone_chosen(words.split(), ENV if token else {}) is alone


def test_every_option_of_theirs_is_known_and_documented() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "batchhub", "proxy", "--help"],
        env={**os.environ, **ENV},
        capture_output=True,
        text=True,
        check=True,
    )
    table = DOCS.read_text()
    for option in THEIRS:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", process.stdout), option
        assert re.search(rf"`{option}[` ]", table) or option in {"--help", "--version"}, f"docs/proxy.md: {option}"


def test_defaults() -> None:
    settings = read()
    assert (settings.public_host, settings.public_port) == ("", 8000)
    assert (settings.api_host, settings.api_port) == ("localhost", 8001)
    assert settings.token == TOKEN
    assert settings.standalone
    assert settings.forwarding == Forwarding()
    assert settings.error_pages == ErrorPages()
    assert (settings.tls, settings.api_tls, settings.metrics, settings.redirect) == (None, None, None, None)
    assert (settings.state_file, settings.default_target, settings.workers) == (None, "", 1)
    assert settings.limits.response_time == 0
    assert not settings.access_log
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--ip", ""], "public_host", ""),
        (["--ip=*"], "public_host", ""),
        (["--ip=::1"], "public_host", "::1"),
        (["--port", "9000"], "api_port", 9001),
        (["--port=9000", "--api-port=7"], "api_port", 7),
        (["--api-ip", "0.0.0.0"], "api_host", "0.0.0.0"),
        (["--default-target=https://x/y"], "default_target", "https://x/y"),
        (["--error-target=http://127.0.0.1:8081/hub/error"], "error_pages", ErrorPages("http://127.0.0.1:8081/hub/error")),
        (["--no-x-forward"], "forwarding", Forwarding(x_forward=False)),
        (["--no-prepend-path"], "forwarding", Forwarding(prepend_path=False)),
        (["--no-include-prefix"], "forwarding", Forwarding(include_prefix=False)),
        (["--auto-rewrite"], "forwarding", Forwarding(auto_rewrite=True)),
        (["--protocol-rewrite=https"], "forwarding", Forwarding(protocol_rewrite="https")),
        (["--change-origin"], "forwarding", Forwarding(change_origin=True)),
        (["--host-routing"], "forwarding", Forwarding(host_routing=True)),
        (
            ["--custom-header", "A: b:c ", "--custom-header=X:y", "--custom-header=a:z"],
            "forwarding",
            Forwarding(custom_headers=(("a", "z"), ("X", "y"))),
        ),
        (["--metrics-port=9"], "metrics", Metrics("", 9)),
        (["--metrics-port=9", "--metrics-ip=127.0.0.1"], "metrics", Metrics("127.0.0.1", 9)),
        (["--metrics-socket=/tmp/m"], "metrics", Metrics("", 0, Path("/tmp/m"))),
        (["--socket=/tmp/s"], "public_socket", Path("/tmp/s")),
        (["--api-socket", "/tmp/s"], "api_socket", Path("/tmp/s")),
        (["--state-file=/tmp/s"], "state_file", Path("/tmp/s")),
        (["--trusted-proxies=10.0.0.0/8, ::1", "--trusted-proxies=1.2.3.4"], "trusted_proxies", ("10.0.0.0/8", "::1", "1.2.3.4")),
        ([], "trusted_proxies", ("127.0.0.0/8", "::1")),
        (["--trusted-proxies="], "trusted_proxies", ()),
        (["--workers=3"], "workers", 3),
        (["--log-level=DEBUG"], "access_log", True),
    ],
)  # fmt: skip
def test_an_option(words: list[str], name: str, value: Any) -> None:
    assert getattr(read(*words), name) == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--timeout=5000", "body_idle", 5.0),
        ("--timeout=5000", "response_time", 5.0),
        ("--proxy-timeout=5000", "response_time", 5.0),
        ("--proxy-timeout=5000 --timeout=9000", "response_time", 5.0),
        ("--proxy-timeout=0", "response_time", 0.0),
        ("--keep-alive-timeout=5000", "keep_alive", 5.0),
        ("--keep-alive-timeout=100", "tick", 0.025),
        ("--timeout=1", "tick", 0.02),
        ("--timeout=60000", "tick", 1.0),
    ],
)
def test_times(words: str, name: str, value: float) -> None:
    assert getattr(read(*words.split()).limits, name) == value


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--prot=1", "--prot: there is no such option; did you mean '--port'"),
        ("word", "word: there is no such option"),
        ("--port", "--port: expected one argument"),
        ("--port=0", "--port: '0' is not a port; a number from 1 to 65535"),
        ("--port=x", "--port: 'x' is not a port"),
        ("--port=65535", "--api-port is needed"),
        ("--timeout=1s", "--timeout: '1s' is not a time"),
        ("--workers=0", "--workers: '0' is no number of processes; 1 to 64"),
        ("--ssl-key=/none", "--ssl-key: there is no file '/none'"),
        ("--error-path=/none", "--error-path: there is no directory '/none'"),
        ("--pid-file=/none/x", "--pid-file: '/none/x' is not a file in a directory that exists"),
        ("--default-target=nonsense", "--default-target: target 'nonsense'"),
        ("--error-target=http://x --error-path=/tmp", "--error-target and --error-path: only one"),
        ("--protocol-rewrite=ftp", "--protocol-rewrite: 'ftp' is not 'http' or 'https'"),
        ("--custom-header=nonsense", "--custom-header: 'nonsense' is not a header"),
        ("--custom-header=a\rb:c", "is not a header"),
        ("--custom-header=Content-Length:5", "Content-Length says where a message ends"),
        ("--trusted-proxies=nonsense", "--trusted-proxies: trusted_proxies: 'nonsense'"),
        ("--log-level=loud", "--log-level: 'loud' is not debug, info, warn or error"),
        ("--storage-backend=x", "--storage-backend: Routes are kept in memory here, and with --state-file"),
        ("--ssl-allow-rc4", "--ssl-allow-rc4: RC4 is broken"),
        ("--redirect-port=80", "--redirect-port: .* needs --ssl-key and --ssl-cert"),
        ("--redirect-to=443", "--redirect-to: --redirect-port is needed"),
        ("--metrics-ip=x", "--metrics-ip: --metrics-port is needed"),
        ("--ssl-request-cert", "--ssl-request-cert: --ssl-key and --ssl-cert are needed"),
        ("--api-ssl-reject-unauthorized", "--api-ssl-reject-unauthorized: --api-ssl-key"),
    ],
)
def test_what_is_wrong_is_a_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(*words.split(" "))


@pytest.mark.parametrize("token", [{}, {"CONFIGPROXY_AUTH_TOKEN": ""}])
def test_there_is_no_open_api(token: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"CONFIGPROXY_AUTH_TOKEN is not set.*openssl rand -hex 32"):
        read_standalone(["--default-target=http://x"], token)
    with pytest.raises(ConfigError, match="16 characters"):
        read_standalone([], {"CONFIGPROXY_AUTH_TOKEN": "short"})


def test_certificates(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    certificate, key = ours.sign("a", passphrase="one")
    api_certificate, api_key = ours.sign("b", passphrase="two")
    client_certificate, client_key = ours.sign("c")
    words = [f"--ssl-key={key}", f"--ssl-cert={certificate}", "--redirect-port=80"]
    words += ["--ssl-protocol=TLSv1_2", "--ssl-ciphers=HIGH"]
    api = [f"--api-ssl-key={api_key}", f"--api-ssl-cert={api_certificate}", f"--api-ssl-ca={ours.file}"]
    words += [*api, "--api-ssl-request-cert", "--api-ssl-reject-unauthorized"]
    words += [f"--client-ssl-key={client_key}", f"--client-ssl-cert={client_certificate}"]
    words += [f"--client-ssl-ca={ours.file}", "--client-ssl-request-cert", "--client-ssl-reject-unauthorized"]
    secrets = {"CONFIGPROXY_SSL_KEY_PASSPHRASE": "one", "CONFIGPROXY_API_SSL_KEY_PASSPHRASE": "two"}
    settings = read(*words, **secrets)
    assert settings.tls is not None
    assert settings.api_tls is not None
    assert (settings.tls.certificate, settings.tls.key) == (certificate, key)
    assert (settings.tls.protocol, settings.tls.ciphers, settings.tls.client_certificates) == ("TLSv1_2", "HIGH", False)
    assert (settings.api_tls.client_authority, settings.api_tls.client_certificates) == (ours.file, True)
    assert (settings.client_tls.certificate, settings.client_tls.authority) == (client_certificate, ours.file)
    assert settings.client_tls.verify
    assert settings.redirect == Redirect(80, 8000)
    assert read(*words, "--redirect-to=443", **secrets).redirect == Redirect(80, 443)
    assert not read(*words, "--insecure", **secrets).client_tls.verify
    with pytest.raises(ConfigError, match="passphrase"):
        read(*words)
    with pytest.raises(ConfigError, match="--ssl-key and --ssl-cert: TLS needs both"):
        read(f"--ssl-key={key}")
    with pytest.raises(ConfigError, match="--client-ssl-key and --client-ssl-cert"):
        read(f"--client-ssl-cert={client_certificate}")
    with pytest.raises(ConfigError, match="'SSLv3' is not offered"):
        read(*words, "--ssl-protocol=SSLv3", **secrets)


def test_the_pid_file(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    with pid_file(place):
        assert place.read_text() == str(os.getpid())
    assert not place.exists()
    with pid_file(place):
        place.write_text("1")  # another's by now
    assert place.read_text() == "1"
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(ConfigError, match="--pid-file"), pid_file(link):
        pass
    with pid_file(None):
        pass
    read_standalone([f"--pid-file={place}"], ENV)
    assert place.read_text() == "1", "reading the options writes nothing"


def test_a_process(tmp_path: Path, ports: dict[str, int]) -> None:
    public, api = ports["Proxy__port"], ports["Proxy__api_port"]
    place = tmp_path / "pid"
    (tmp_path / "batchhub_config.py").write_text("raise SystemError")  # another mode's
    words = ["--ip=127.0.0.1", f"--port={public}", f"--api-port={api}", f"--pid-file={place}"]
    command = [sys.executable, "-m", "batchhub", "proxy", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **ENV}, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{public}/_chp_healthz"):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert place.read_text() == str(process.pid)
        request = urllib.request.Request(
            f"http://127.0.0.1:{api}/api/routes", headers={"Authorization": f"token {TOKEN}"}
        )
        with closing(urllib.request.urlopen(request, timeout=5)) as answer:
            assert answer.read() == b"{}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not place.exists()
        assert process.stderr is not None
        assert TOKEN not in process.stderr.read()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _answers(url: str) -> bool:
    with suppress(OSError), closing(urllib.request.urlopen(url, timeout=5)) as answer:
        return bool(answer.status == 200)
    return False
