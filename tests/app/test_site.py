"""A site's configuration as a whole: what is found at start and never later."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.site import load_authenticators, load_extension, make_dialect, over_https, read_site, with_limits
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.config.clusters import ClusterSettings
from batchhub.config.traits import BatchHub, Culling, Proxy
from batchhub.core.errors import ConfigError, TemplateProblem

SOCKET = {"argv": [], "socket_argv": ["app", "--socket={socket}"], "scheme": ""}


def site(**settings: Any) -> Any:
    return read_site(BatchHub(**{"clusters": {"hpc": {}}, **settings}))


def test_the_least_is_one_profile_with_jupyterlab() -> None:
    found = site()
    assert [(profile.name, profile.cluster, profile.application) for profile in found.profiles] == [
        ("jupyterlab", "hpc", "jupyterlab")
    ]
    assert found.profile("jupyterlab") is found.profiles[0]
    assert found.cluster("hpc").scheduler == "slurm"


def test_a_profiles_own_limits_win_over_the_sites() -> None:
    profiles = [{"name": "a"}, {"name": "b", "idle_timeout": 0, "max_lifetime": "8h"}]
    found = with_limits(site(profiles=profiles), Culling(idle_timeout=7200.0, max_lifetime=86400.0))
    limits = [(profile.idle_timeout, profile.max_lifetime) for profile in found.profiles]
    assert limits == [(7200.0, 86400.0), (0.0, 28800.0)]


def test_several_clusters_and_no_profile_start_on_the_first() -> None:
    assert site(clusters={"a": {}, "b": {}}).profiles[0].cluster == "a"


def test_toml_and_traits_are_added_up(tmp_path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[clusters.b]\nscheduler = "pbs"\n[[profiles]]\nname = "two"\ncluster = "b"\n')
    found = site(site_file=str(file), profiles=[{"name": "one", "cluster": "hpc"}])
    assert [profile.name for profile in found.profiles] == ["one", "two"]
    assert [cluster.name for cluster in found.clusters] == ["hpc", "b"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clusters": {}}, "No cluster is configured"),
        ({"applications": {"x": 1}}, "application 'x': a table is expected."),
        ({"applications": {"x": {"agrv": ["a"]}}}, "application 'x': unknown setting 'agrv'; did you mean 'argv'?"),
        ({"profiles": [{"name": "p", "application": "jupyterlap"}]}, "did you mean 'jupyterlab'?"),
        ({"profiles": [{"name": "p", "application": "code-server"}]}, "listens on a Unix socket"),
        (
            {"applications": {"x": SOCKET}, "profiles": [{"name": "p", "application": "x"}]},
            "which a tunnel of kind 'direct' does not reach on another machine: cluster 'hpc' needs tunnel = 'node' or 'reverse'.",
        ),
        (
            {"clusters": {"hpc": {"tunnel": "revers"}}},
            "cluster 'hpc', tunnel: 'revers' is not known; did you mean 'reverse'?",
        ),
    ],
)
def test_what_cannot_work_is_said_at_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site(**settings)
    assert words in str(caught.value)


def test_a_socket_on_this_machine_is_fine() -> None:
    here = {"here": {"scheduler": "local"}}
    found = site(clusters=here, applications={"x": SOCKET}, profiles=[{"name": "p", "application": "x"}])
    assert found.applications["x"].socket_argv


def test_a_socket_on_a_node_that_a_tunnel_ends_on_is_fine() -> None:
    ssh = {"host": "login1", "known_hosts": "/etc/batchhub/known_hosts"}
    there = {"there": {"transport": "ssh", "ssh": ssh, "tunnel": ["login", "node"]}}
    found = site(clusters=there, applications={"x": SOCKET}, profiles=[{"name": "p", "application": "x"}])
    assert found.profile("p").application == "x"


def test_the_hubs_own_address_is_read() -> None:
    assert site().origin is None
    assert site(subdomain_host="https://Hub.example.org").origin.text == "https://hub.example.org"
    with pytest.raises(ConfigError, match=r"c\.BatchHub\.subdomain_host: 'hub\.example\.org': 'https://NAME' or"):
        site(subdomain_host="hub.example.org")


@pytest.mark.parametrize("tls", [{"ssl_cert": "c"}, {"https_in_front": True}, {}])
def test_the_hubs_address_and_tls_must_agree(tls: dict[str, Any]) -> None:
    proxy = Proxy(**tls)
    assert over_https(proxy, None) == bool(tls)
    fits, not_ = ("https", "http") if tls else ("http", "https")
    assert over_https(proxy, site(subdomain_host=f"{fits}://hub.test").origin) == bool(tls)
    with pytest.raises(ConfigError, match="They must agree"):
        over_https(proxy, site(subdomain_host=f"{not_}://hub.test").origin)


def test_extensions_by_name_by_path_and_not_at_all() -> None:
    assert load_extension("batchhub.authenticators", "dictionary", "here") is DictionaryAuthenticator
    only = {"dictionary": DictionaryAuthenticator}
    for one in ("dictionary", "batchhub.auth.dictionary:DictionaryAuthenticator", DictionaryAuthenticator):
        assert load_authenticators(one) == load_authenticators([one]) == only
    assert list(load_authenticators(["pam", DictionaryAuthenticator])) == ["pam", "dictionary"]
    for wrong in ("dictionry", "no.such:Thing", "os:nothing", "os:path", 7):
        with pytest.raises(ConfigError, match=r"authenticator_class"):
            load_authenticators(wrong)


def test_a_dialects_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="scheduler_options: unknown setting 'bindir'; did you mean 'bin_dir'"):
        make_dialect(ClusterSettings("hpc", scheduler_options={"bindir": "x"}))


def test_the_queue_of_this_program_runs_with_its_python() -> None:
    assert make_dialect(ClusterSettings("here", scheduler="local")).python == sys.executable
    assert make_dialect(ClusterSettings("here", scheduler="local", scheduler_options={"python": "py"})).python == "py"


@pytest.mark.parametrize(
    ("scheduler", "block", "words"),
    [
        ("docker", "{% block network %}\n#CONTAINER --rm\n{% endblock %}", "#CONTAINER '--rm': BatchHub sets it."),
        ("podman", "{% block network %}\n#CONTAINER --cpus 4\n{% endblock %}", "options are written --option=value"),
        ("kubernetes", "{% block volumes %}\n#POD volumes: [\n{% endblock %}", "#POD: this is not YAML"),
    ],
)
def test_directives_that_no_job_could_be_started_with_are_found_at_start(
    tmp_path, scheduler: str, block: str, words: str
) -> None:
    (tmp_path / f"{scheduler}.sh.j2").write_text(f'{{% extends "{scheduler}.sh.j2" %}}\n{block}\n')
    builder = SiteJobBuilder(site(clusters={"box": {"scheduler": scheduler}}, template_dirs=[str(tmp_path)]), b"k" * 32)
    with pytest.raises(TemplateProblem) as caught:
        builder.check()
    assert words in str(caught.value)
    assert f"Template {scheduler}.sh.j2, for cluster 'box': " in str(caught.value)
    (tmp_path / f"{scheduler}.sh.j2").unlink()
    builder.check()
