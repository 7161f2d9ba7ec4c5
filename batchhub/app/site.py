"""A site's configuration as frozen values: read once at start, checked as a whole, before anything is opened."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from batchhub.auth.base import Authenticator
from batchhub.config.additions import read_rules
from batchhub.config.clusters import ClusterSettings, read_clusters
from batchhub.config.profiles import read_profiles
from batchhub.config.tables import check_keys, read, suggest
from batchhub.config.traits import BatchHub, Culling, Hub, Proxy
from batchhub.core.customising import Rule
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.forms import Profile
from batchhub.core.hosts import Origin, read_origin
from batchhub.core.ports import Dialect
from batchhub.job.applications import BUILT_IN, Application


@dataclass(frozen=True, slots=True)
class Site:
    """Clusters, what can be started on them, and where the templates are."""

    clusters: tuple[ClusterSettings, ...]
    profiles: tuple[Profile, ...]
    applications: Mapping[str, Application]
    template_dirs: tuple[Path, ...]
    origin: Origin | None = None
    """The hub's, when every server has a host of its own below it."""
    additions: tuple[Rule, ...] = ()
    """What is added to some people's jobs, in the order in which the later counts."""

    def cluster(self, name: str) -> ClusterSettings:
        """Raises ConfigError."""
        for cluster in self.clusters:
            if cluster.name == name:
                return cluster
        raise ConfigError(f"There is no cluster {name!r}; {suggest(name, [cluster.name for cluster in self.clusters])}")

    def profile(self, name: str) -> Profile:
        """Raises ConfigError."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        raise ConfigError(f"There is no profile {name!r}; {suggest(name, [profile.name for profile in self.profiles])}")


def read_site(traits: BatchHub) -> Site:
    """From the traits and the TOML file beside them. Raises ConfigError."""
    clusters: dict[str, Any] = dict(traits.clusters)
    profiles: list[Any] = list(traits.profiles)
    applications: dict[str, Any] = dict(traits.applications)
    additions: list[Any] = list(traits.additions)
    if traits.site_file:
        table = _toml(Path(traits.site_file))
        check_keys(table, ("clusters", "profiles", "applications", "additions"), traits.site_file)
        for name in set(clusters) & set(table.get("clusters", {})):
            raise ConfigError(f"cluster {name!r} is both in c.BatchHub.clusters and in {traits.site_file}.")
        clusters.update(table.get("clusters", {}))
        profiles.extend(table.get("profiles", []))
        applications.update(table.get("applications", {}))
        additions.extend(_listed(table.get("additions", []), traits.site_file))
    known = {**BUILT_IN, **{name: _application(name, table) for name, table in applications.items()}}
    read = read_clusters(clusters)
    if not read:
        raise ConfigError(
            "No cluster is configured: set c.BatchHub.clusters, or c.BatchHub.site_file to a TOML file with [clusters.NAME]."
        )
    found = read_profiles(
        profiles or [{"name": "jupyterlab", "title": "JupyterLab", "cluster": read[0].name}],
        [c.name for c in read],
        list(known),
    )
    for cluster in read:
        make_dialect(cluster)
        for kind in cluster.tunnel_kinds:
            load_extension("batchhub.tunnels", kind, f"cluster {cluster.name!r}, tunnel")
    for profile in found:
        _check_reachable(profile, known[profile.application], next(c for c in read if c.name == profile.cluster))
    directories = tuple(Path(name) for name in traits.template_dirs)
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"c.BatchHub.template_dirs: {directory} is not a directory.")
    rules = read_rules(additions, found, [cluster.name for cluster in read])
    return Site(read, found, known, directories, _origin(traits.subdomain_host), rules)


def _listed(tables: Any, where: str) -> list[Any]:
    if not isinstance(tables, list):
        raise ConfigError(f"{where}: additions: a list of tables is expected, each under [[additions]].")
    return tables


def with_limits(site: Site, culling: Culling) -> Site:
    """The site, every profile with the limits that hold for it."""

    def filled(profile: Profile) -> Profile:
        idle, lifetime = profile.idle_timeout, profile.max_lifetime
        return replace(
            profile,
            idle_timeout=culling.idle_timeout if idle is None else idle,
            max_lifetime=culling.max_lifetime if lifetime is None else lifetime,
        )

    return replace(site, profiles=tuple(filled(profile) for profile in site.profiles))


def _origin(text: str) -> Origin | None:
    try:
        return read_origin(text) if text else None
    except BadInput as error:
        raise ConfigError(f"c.BatchHub.subdomain_host: {error}") from error


def over_https(proxy: Proxy, origin: Origin | None) -> bool:
    """Whether browsers reach us by https. Raises ConfigError if the settings do not agree about it."""
    secure = bool(proxy.ssl_cert) or proxy.https_in_front
    if origin is not None and origin.secure != secure:
        told = "neither c.Proxy.ssl_cert nor c.Proxy.https_in_front is" if origin.secure else "TLS is"
        raise ConfigError(f"c.BatchHub.subdomain_host is {origin.text}, but {told} set. They must agree.")
    return secure


def _check_reachable(profile: Profile, application: Application, cluster: ClusterSettings) -> None:
    """What could be started but never entered is an error now, not a minute after somebody's job began."""
    place = f"profile {profile.name!r}: application {application.name!r}"
    try:
        application.with_arguments(profile.arguments).check()
    except BadInput as error:
        raise ConfigError(f"profile {profile.name!r}, arguments: {error}") from error
    if not application.argv and not cluster.reaches_sockets:
        raise ConfigError(
            f"{place} listens on a Unix socket, which a tunnel of kind {cluster.tunnel_kind!r} does not reach on another machine: "
            f"cluster {cluster.name!r} needs tunnel = 'node' or 'reverse'."
        )


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"c.BatchHub.site_file: {path} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}.") from error


def _application(name: str, table: Any) -> Application:
    if not isinstance(table, Mapping):
        raise ConfigError(f"application {name!r}: a table is expected.")
    application = read(Application, {"title": name, **table, "name": name}, f"application {name!r}")
    try:
        application.check()
    except BadInput as error:
        raise ConfigError(str(error)) from error
    return application


def make_dialect(cluster: ClusterSettings) -> Dialect:
    """The cluster's scheduler dialect, from its entry point and options. Raises ConfigError."""
    where = f"cluster {cluster.name!r}, scheduler"
    cls = load_extension("batchhub.schedulers", cluster.scheduler, where)
    lacking = sorted(name for name in vars(Dialect) if not name.startswith("_") and not hasattr(cls, name))
    if not isinstance(cls, type) or not is_dataclass(cls) or lacking:
        why = f"it has no {lacking[0]!r}" if lacking else "it is no dataclass"
        raise ConfigError(f"{where}: {cluster.scheduler} is no dialect (docs/dialects.md): {why}.")
    given = dict(cluster.scheduler_options)
    if cluster.scheduler == "local" and cluster.transport == "local":
        given.setdefault("python", sys.executable)  # the queue is a part of this program, so its own Python has it
    options: Any = read(cls, given, f"cluster {cluster.name!r}, scheduler_options")
    dialect: Dialect = options
    return dialect


def load_extension(group: str, name: str, where: str) -> Any:
    """An extension class by its entry point's name, or ``package.module:Class``. Raises ConfigError."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        return _imported(name, where, lambda: getattr(__import__(module, fromlist=[attribute]), attribute))
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise ConfigError(f"{where}: {name!r} is not known; {suggest(name, found)}")
    return _imported(name, where, found[name].load)


def _imported(name: str, where: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        # Whatever somebody else's module does when it is imported is a matter of the configuration.
        raise ConfigError(f"{where}: {name} cannot be imported: {type(error).__name__}: {error}.") from error


def hub_address(hub: Hub) -> str:
    """Where the proxy finds this hub."""
    return hub.url or f"http://{hub.ip}:{hub.port}"


def load_authenticators(value: Any) -> Mapping[str, type[Authenticator]]:
    """The ways to sign in, by name, from the trait's value: one or a list of classes, entry points or ``package.module:Class``. Raises ConfigError."""
    found: dict[str, type[Authenticator]] = {}
    for one in value if isinstance(value, list | tuple) else [value]:
        cls = load_extension("batchhub.authenticators", one, _WAYS) if isinstance(one, str) else one
        if not (isinstance(cls, type) and issubclass(cls, Authenticator)):
            raise ConfigError(f"{_WAYS}: {one!r} is not an Authenticator class{_of_jupyterhub(cls)}.")
        name = one if isinstance(one, str) and ":" not in one else _way_of(cls)
        if name in found:
            raise ConfigError(f"{_WAYS}: {name!r} is there twice.")
        found[name] = cls
    if not found:
        raise ConfigError(f"{_WAYS} is empty; to let nobody in, say 'null'.")
    return found


_WAYS = "c.BatchHub.authenticator_class"


def _of_jupyterhub(cls: Any) -> str:
    """JupyterHub's have the same methods, so one is easily named here."""
    if not callable(getattr(cls, "authenticate", None)):
        return ""
    return " of BatchHub's: a class of one's own has batchhub.auth.base.Authenticator for its base, and most of JupyterHub's have a name here (docs/from-jupyterhub.md)"


def _way_of(cls: type) -> str:
    """``CampusAuthenticator`` is the way ``campus``."""
    return cls.__name__.removesuffix("Authenticator").lower() or "own"
