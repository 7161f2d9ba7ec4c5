"""Builds the job of a server from the site's words: context, script, documents, route. Stands behind ``control.ports.JobBuilder``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from batchhub.app.dialling import DialInBuilder, Dialling
from batchhub.app.site import Site, make_dialect
from batchhub.config.clusters import ClusterSettings
from batchhub.control.ports import JobFiles
from batchhub.control.walltime import DEFAULT_NOTICES, Notices
from batchhub.core import handshake, proofs
from batchhub.core.customising import FILES, FILES_VARIABLE, NOT_CUSTOMISED, Customisation
from batchhub.core.errors import BadInput, ConfigError, Denied, TemplateProblem
from batchhub.core.forms import STANDARD, Profile
from batchhub.core.handshake import Connection
from batchhub.core.model import Endpoint, OptionValue, Server, ServerId, UserName
from batchhub.core.ports import JobRequest, RouteTarget
from batchhub.core.proofs import Facts
from batchhub.core.walltime import TimeUp
from batchhub.job.applications import Application
from batchhub.job.context import JobContext
from batchhub.job.files import job_files
from batchhub.job.render import SAMPLE, Renderer

PREVIEW_ID = ServerId("preview22222")
"""Stands in for a server's id where a job is only shown."""


class SiteJobBuilder:
    """All of a site's jobs. ``key`` is what servers' tokens and keys are derived from, ``dialling`` where jobs reach the proxy, if they need to.

    ``notices`` is for profiles that say nothing themselves of the end of their jobs' time.
    """

    def __init__(
        self, site: Site, key: bytes, dialling: Dialling | None = None, notices: Notices = DEFAULT_NOTICES
    ) -> None:
        self._site = site
        self._notices = notices
        self._profiles = frozenset(profile.name for profile in site.profiles)
        self._key = key
        self._dial_in = DialInBuilder(key, dialling)
        self._renderer = Renderer(site.template_dirs)
        self._dialects = {cluster.name: make_dialect(cluster).name for cluster in site.clusters}

    def check(self) -> None:
        """Render a sample for every cluster, and let its dialect read it as for a submit. Raises TemplateProblem."""
        for name in sorted(set(self._dialects.values())):
            self._renderer.check(name)
        for cluster in self._site.clusters:
            self._check_directives(cluster)
        for profile in self._site.profiles:
            self._check_profile(profile)

    def _check_profile(self, profile: Profile) -> None:
        cluster = self._site.cluster(profile.cluster)
        try:
            _with_texts(SAMPLE, cluster, profile).check()
        except BadInput as error:
            raise ConfigError(f"profile {profile.name!r} on cluster {cluster.name!r}: {error}") from error

    def _check_directives(self, cluster: ClusterSettings) -> None:
        name = self._dialects[cluster.name]
        sample = replace(SAMPLE, options={"image": "sample"})
        request = JobRequest(sample.job_name, sample.directory, self._renderer.render(name, sample), sample.username)
        try:
            make_dialect(cluster).submit(request)
        except BadInput as error:
            raise TemplateProblem(f"Template {name}.sh.j2, for cluster {cluster.name!r}: {error}") from error

    # ------------------------------------------------ files

    def build(self, server: Server, home: str, added: Customisation = NOT_CUSTOMISED) -> JobFiles:
        """Render the script and the documents. Raises BadInput, TemplateProblem."""
        cluster, profile = self._site.cluster(server.cluster), self._site.profile(server.profile)
        directory = f"{home.rstrip('/')}/.batchhub/jobs/{server.id}"
        script = self.script(server, home, directory, added)
        application = self._site.applications[profile.application].with_arguments(profile.arguments)
        callback = (
            f"{cluster.callback_url.rstrip('/')}/hub/api/jobs/{server.id}/connection" if cluster.callback_url else ""
        )
        launch = application.document(
            server.path,
            socket=_uses_socket(application),
            bind=cluster.bind_address,
            ports=cluster.ports,
            callback_url=callback,
            username=server.user,
            server=server.name,
            hub_host=self._site.origin.text if self._site.origin is not None else "",
            dial_in=self._dial_in.document(server, cluster),
            time_up=handshake.BeforeEnd(
                walltime=float(server.options.get("walltime", 0)),
                before=self.notices(server).save_before.total_seconds(),
                command=profile.time_up.command,
                signal=profile.time_up.signal,
            ),
        )
        # The secrets come last: what a requeued job reads is never older than what is signed.
        files = job_files(script, launch, self.secrets(replace(server, directory=directory), added))
        given = {f"{FILES}/{name}": data for name, data in added.files.items()}
        return JobFiles(script, {proofs.PROOF: self.proof(server), **given, **files})

    def notices(self, server: Server) -> Notices:
        """When the owner is warned of the end of the job's time, and when the job saves: the profile's word, else the site's."""
        found = self._site.profile(server.profile).time_up if server.profile in self._profiles else TimeUp()
        warn = self._notices.warn_before if found.warn_before is None else timedelta(seconds=found.warn_before)
        save = self._notices.save_before if found.save_before is None else timedelta(seconds=found.save_before)
        return Notices(warn, save)

    def script(self, server: Server, home: str, directory: str, added: Customisation = NOT_CUSTOMISED) -> str:
        """The job script alone."""
        cluster, profile = self._site.cluster(server.cluster), self._site.profile(server.profile)
        context = _context(server, cluster, profile, home, directory)
        files = f"{directory}/{FILES}" if added.files else ""
        shown = replace(context, environment=added.over(context.environment), files=files)
        return self._renderer.render(self._dialects[cluster.name], shown)

    def secrets(self, server: Server, added: Customisation = NOT_CUSTOMISED) -> bytes:
        """``secrets.json`` of the server's generation."""
        keys = self._dial_in.keys(server)
        token = self.token(server, server.generation)
        env = {**added.secret, FILES_VARIABLE: f"{server.directory}/{FILES}"} if added.files else added.secret
        return handshake.secrets_document(server.generation, token, keys.private if keys else "", env)

    def proof(self, server: Server) -> bytes:
        """``server.json``: the run's facts, signed."""
        return proofs.proof_document(self._key, server)

    def prove(self, data: bytes) -> Facts:
        """The facts of a run that this hub signed. Raises BadInput, Denied."""
        return proofs.read_proof(self._key, data)

    def unfit(self, facts: Facts) -> str:
        """Why a run of these facts could not go on under today's configuration; empty if it could."""
        try:
            cluster, profile = self._site.cluster(facts.cluster), self._site.profile(facts.profile)
        except ConfigError as error:
            return str(error)
        if profile.cluster != cluster.name:
            return f"Profile {profile.name!r} is on cluster {profile.cluster!r} now."
        try:
            account = cluster.account_of(facts.user)
        except Denied as error:
            return str(error)
        return "" if account == facts.account else f"The account of {facts.user} is {account!r} now."

    def token(self, server: Server, generation: int) -> str:
        """The secret of one start."""
        return handshake.server_token(self._key, server.id, generation)

    @property
    def dials_in(self) -> bool:
        """Whether any cluster's jobs dial in at the proxy."""
        return self._dial_in.wanted

    def offer_key(self, server: Server) -> str:
        """The public key that the server's generation dials in with; empty where its jobs do not."""
        keys = self._dial_in.keys(server)
        return keys.public if keys else ""

    # ------------------------------------------------ the way there

    def endpoint(self, server: Server, connection: Connection) -> Endpoint:
        """Where to dial. The scheduler says which node it is; the job, whose owner may have written anything, says which port."""
        cluster = self._site.cluster(server.cluster)
        named = server.host or "{host}" not in cluster.node_address
        host = cluster.node_address.replace("{host}", server.host) if named else ""
        if cluster.node_networks:
            host = _believed(connection.addresses, cluster.node_networks) or host
        if not host:
            raise BadInput("The scheduler does not say which node the job runs on.")
        if connection.socket:
            return Endpoint(host, socket=connection.socket)
        # Without a range of the site's, at least never a service of the node's own.
        low, high = cluster.ports or (1024, 65535)
        if not low <= connection.port <= high:
            raise BadInput(f"The job says it listens on port {connection.port}, outside of {low}-{high}.")
        return Endpoint(host, connection.port)

    def route(self, server: Server) -> RouteTarget:
        """The route to a server whose endpoint is known."""
        if server.endpoint is None:
            raise BadInput(f"Server {server.id} has not said where it listens.")
        cluster = self._site.cluster(server.cluster)
        application = self._application(server)
        return RouteTarget(
            path=server.path,
            endpoint=replace(server.endpoint, offer=server.id),
            owner=server.user,
            server_id=server.id,
            server_name=server.name,
            cluster=cluster.name,
            kind=cluster.tunnel_kind,
            account=server.account,
            authorization=application.authorization(
                handshake.start_token(self.token(server, server.generation), server.nonce)
            ),
            strip_prefix=application.strip_prefix,
            host=self._site.origin.server_host(server.user, server.name) if self._site.origin is not None else "",
        )

    def ready_path(self, server: Server) -> str:
        """What answers once the application is ready, and, where it has such a path, only to its own secret."""
        return self._application(server).probed_path(server.path)

    def shutdown_path(self, server: Server) -> str:
        """Where a POST asks its application to end; empty if it knows no such thing, or nobody does: its profile was taken away."""
        application = self._known(server)
        return application.shutdown(server.path) if application is not None else ""

    def jupyter_path(self, server: Server) -> str:
        """Where the Jupyter API of its application is; empty if it has none."""
        application = self._known(server)
        return server.path + "api/" if application is not None and application.activity == "jupyter" else ""

    def _known(self, server: Server) -> Application | None:
        with suppress(ConfigError):
            return self._application(server)
        return None

    def _application(self, server: Server) -> Application:
        return self._site.applications[self._site.profile(server.profile).application]

    # ------------------------------------------------ a look without a server

    def preview(
        self,
        profile: Profile,
        options: Mapping[str, OptionValue],
        user: str,
        home: str,
        server: Server,
        *,
        added: Customisation = NOT_CUSTOMISED,
    ) -> str:
        """The script that would be submitted for these values."""
        shown = replace(server, user=UserName(user), profile=profile.name, cluster=profile.cluster, options=options)
        return self.script(shown, home, f"{home}/.batchhub/jobs/{shown.id}", added)


def _uses_socket(application: Application) -> bool:
    return not application.argv


def _believed(addresses: tuple[str, ...], networks: tuple[str, ...]) -> str:
    """The first reported address that lies in a network the admin named."""
    allowed = [ipaddress.ip_network(network) for network in networks]
    for text in addresses:
        address = ipaddress.ip_address(text)
        if any(address in network for network in allowed):
            return text
    return ""


def _context(server: Server, cluster: ClusterSettings, profile: Profile, home: str, directory: str) -> JobContext:
    options = dict(server.options)

    def text(name: str) -> str:
        return str(options.get(name, ""))

    def number(name: str, fallback: int) -> int:
        value = options.get(name, fallback)
        return int(value)

    walltime = number("walltime", 0)
    context = JobContext(
        job_name=server.job_name,
        directory=directory,
        username=server.account,
        homedir=home,
        partition=text("partition"),
        nprocs=number("cores", 1),
        memory_mib=number("memory", 0) or None,
        walltime=timedelta(seconds=walltime) if walltime else None,
        gpus=number("gpus", 0),
        gpu_type=text("gpu_type"),
        account=text("account"),
        qos=text("qos"),
        reservation=text("reservation"),
        options={name: value for name, value in options.items() if name not in STANDARD},
        memory_unit=_memory_unit(cluster.scheduler_options),
    )
    return _with_texts(context, cluster, profile)


def _with_texts(context: JobContext, cluster: ClusterSettings, profile: Profile) -> JobContext:
    """With what the administrator wrote: the same for everybody, so it is checked at start."""
    return replace(
        context,
        directives=profile.directives,
        prologue="\n".join(part for part in (cluster.prologue.strip(), profile.prologue.strip()) if part),
        epilogue="\n".join(part for part in (profile.epilogue.strip(), cluster.epilogue.strip()) if part),
        python=cluster.python,
        environment={**cluster.environment, **profile.environment},
    )


def _memory_unit(options: Mapping[str, Any]) -> str:
    """LSF's unit of a bare number. openlava refuses one with a suffix, and counts kilobytes unless the site says otherwise."""
    return str(options.get("unit_for_limits", "KB" if options.get("flavour") == "openlava" else ""))
