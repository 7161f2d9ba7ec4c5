import pytest

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.tunnel.endpoint import check_endpoint

GOOD = (
    Endpoint("c1", 4711),
    Endpoint("node-001.cluster.example.org.", 1),
    Endpoint("n_1", 65535),
    Endpoint("10.0.0.1", 80),
    Endpoint("::1", 80),
    Endpoint("fe80::1%eth0", 80),
    Endpoint("", socket="/run/user/1000/x.sock"),
    Endpoint("c1", socket="/x"),
)

BAD = (
    Endpoint("", 80),
    Endpoint("-oProxyCommand=x", 80),
    Endpoint("-n", 80),
    Endpoint("a b", 80),
    Endpoint("a;b", 80),
    Endpoint("a/b", 80),
    Endpoint("a\nb", 80),
    Endpoint("c1\n", 80),
    Endpoint("user@c1", 80),
    Endpoint("a..b", 80),
    Endpoint("x" * 64, 80),
    Endpoint(".".join(["x" * 60] * 5), 80),
    Endpoint("[::1]", 80),
    Endpoint("größe", 80),
    Endpoint("c1", 0),
    Endpoint("c1", -1),
    Endpoint("c1", 65536),
    Endpoint("c1", socket="relative"),
    Endpoint("c1", socket="/x\0y"),
    Endpoint("c1", socket="/" + "x" * 107),
    Endpoint("-x", socket="/x"),
)


@pytest.mark.parametrize("endpoint", GOOD)
def test_good(endpoint: Endpoint) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize("endpoint", BAD)
def test_bad(endpoint: Endpoint) -> None:
    with pytest.raises(TunnelError):
        check_endpoint(endpoint)
