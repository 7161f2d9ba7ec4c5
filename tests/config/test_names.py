"""A name that nobody reads is an error that suggests the right one."""

import pytest
from traitlets import Unicode
from traitlets.config import Config, Configurable

from batchhub.config.names import check_names
from batchhub.config.traits import CONCERNS
from batchhub.core.errors import ConfigError


class Base(Configurable):
    shared = Unicode().tag(config=True)
    private = Unicode()


class Derived(Base):
    own = Unicode().tag(config=True)


def config(**sections: object) -> Config:
    return Config(sections)


def test_known_names_pass() -> None:
    check_names(config(Proxy={"port": 1}, Hub={"ip": "::1"}), CONCERNS)
    check_names(config(Derived={"shared": "a", "own": "b"}, Base={"shared": "a"}), [Derived])
    check_names(Config(), CONCERNS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (config(Proxy={"prot": 1}), "c.Proxy.prot: there is no such setting; did you mean 'port'?"),
        (config(Proxi={"port": 1}), "c.Proxi: there is no such section; did you mean 'Proxy'?"),
        (
            config(Zzz={"port": 1}),
            "known: Authenticator, BatchHub, Culling, Hub, Limits, Pages, Proxy, Sessions, Starting, Walltime, Watching.",
        ),
        (config(Proxy={"config": 1}), "there is no such setting"),
    ],
)
def test_misspelt(given: Config, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_names(given, CONCERNS)
    assert words in str(caught.value)


def test_traits_that_are_not_configurable_are_no_settings() -> None:
    with pytest.raises(ConfigError, match=r"Derived\.private"):
        check_names(config(Derived={"private": "a"}), [Derived])


def test_a_setting_without_a_section() -> None:
    found = Config()
    dict.__setitem__(found, "port", 80)
    with pytest.raises(ConfigError, match=r"c\.port: a setting has two parts, as in c\.Proxy\.port"):
        check_names(found, CONCERNS)


def test_as_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"--Proxy\.prot: there is no such setting"):
        check_names(config(Proxy={"prot": 1}), CONCERNS, lead="--")


def test_sections_of_classes_that_are_not_known_yet() -> None:
    check_names(config(Derived={"own": "a"}), CONCERNS, others=True)
    with pytest.raises(ConfigError, match=r"c\.Derived: there is no such section"):
        check_names(config(Derived={"own": "a"}), CONCERNS)


def test_a_name_that_was_only_looked_at_is_no_setting() -> None:
    given = Config()
    _ = given.Proxy.prot
    _ = given.Whatever.thing
    check_names(given, CONCERNS)
    given.Proxy.prot.append("x")
    with pytest.raises(ConfigError, match="did you mean 'port'"):
        check_names(given, CONCERNS)
