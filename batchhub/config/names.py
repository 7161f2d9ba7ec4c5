"""Every name in the configuration must be one that somebody reads: a misspelt trait is an error, not silence."""

from __future__ import annotations

from collections.abc import Iterable

from traitlets import HasTraits
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from batchhub.config.tables import suggest
from batchhub.core.errors import ConfigError


def check_names(config: Config, classes: Iterable[type[HasTraits]]) -> None:
    """Compare sections and keys with the classes' configurable traits, inherited ones included. Raises ConfigError."""
    known: dict[str, set[str]] = {}
    for cls in classes:
        for part in cls.mro():
            if issubclass(part, HasTraits) and part is not HasTraits:
                known.setdefault(part.__name__, set()).update(cls.class_trait_names(config=True))
    for section, values in config.items():
        if not isinstance(values, (dict, Config)):
            continue
        if section not in known:
            raise ConfigError(f"c.{section}: there is no such section; {suggest(section, known)}")
        for key, value in values.items():
            if isinstance(value, LazyConfigValue) and not value.to_dict():
                continue  # only looked at, never set
            if key not in known[section]:
                raise ConfigError(f"c.{section}.{key}: there is no such setting; {suggest(key, known[section])}")
