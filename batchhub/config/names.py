"""Every name in the configuration must be one that somebody reads: a misspelt trait is an error, not silence."""

from __future__ import annotations

from collections.abc import Iterable

from traitlets import HasTraits
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from batchhub.config.tables import suggest
from batchhub.core.errors import ConfigError


def check_names(config: Config, classes: Iterable[type[HasTraits]], *, lead: str = "c.", others: bool = False) -> None:
    """Compare sections and keys with the classes' configurable traits, inherited ones included. Raises ConfigError.

    ``lead`` is how a name is written where it came from: ``c.`` in a file, ``--`` on the command line. ``others`` lets unknown sections
    pass: they may belong to a class that is not known yet.
    """
    known: dict[str, set[str]] = {}
    classes = list(classes)
    sections = {cls.__name__ for cls in classes} | {"Authenticator"}
    for cls in classes:
        for part in cls.mro():
            if issubclass(part, HasTraits) and part is not HasTraits:
                known.setdefault(part.__name__, set()).update(cls.class_trait_names(config=True))
    for section, values in config.items():
        if not isinstance(values, (dict, Config)):
            raise ConfigError(
                f"{lead}{section}: a setting has two parts, as in {lead}Proxy.port; {suggest(section, sections)}"
            )
        if section not in known:
            if others or all(_only_looked_at(value) for value in values.values()):
                continue
            raise ConfigError(f"{lead}{section}: there is no such section; {_instead(section, sections)}")
        for key, value in values.items():
            if key not in known[section] and not _only_looked_at(value):
                raise ConfigError(f"{lead}{section}.{key}: there is no such setting; {suggest(key, known[section])}")


def _instead(section: str, sections: Iterable[str]) -> str:
    if section == "JupyterHub" or section.endswith(("Spawner", "SpawnerBase")):
        return "it is JupyterHub's, and docs/from-jupyterhub.md says what stands here in its place."
    return suggest(section, sections)


def _only_looked_at(value: object) -> bool:
    """Reading a name in a configuration file leaves an empty place holder."""
    return isinstance(value, LazyConfigValue) and not value.to_dict()
