"""What a site may set, by concern. Each class only holds traits; ``freeze`` in the composition root makes settings of them.

``batchhub config --generate`` prints all of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from traitlets import Any, Bool, Dict, Enum, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Configurable


class BatchHub(Configurable):
    """The hub as a whole."""

    state_dir = Unicode(
        help="Directory, 0700, of database, keys, routes and logs of the proxy; hub and proxy share it. "
        "Default: /var/lib/batchhub for root, else ~/.local/state/batchhub."
    ).tag(config=True)
    db_url = Unicode(
        help="SQLAlchemy address of the database; empty: SQLite in state_dir. A password in it is not printed anywhere."
    ).tag(config=True)
    site_file = Unicode(
        help="TOML file with [clusters.NAME], [[profiles]] and [[additions]] tables, beside or instead of the traits of these names."
    ).tag(config=True)
    clusters = Dict(help="Cluster name -> table; docs/configuration.md names the keys.").tag(config=True)
    profiles = List(Any(), help="What people can start, in the order shown; a list of tables.").tag(config=True)
    applications = Dict(help="Application name -> table: further web applications that profiles may name.").tag(
        config=True
    )
    additions = List(
        Any(),
        help="What is added to some people's jobs, by group, profile, cluster or user: variables and files from templates; a list of tables, the "
        "later of which counts. docs/environment.md.",
    ).tag(config=True)
    pre_spawn_hook = Any(
        None,
        help="Called as hook(spawn) before a job's directory is written, also when its job comes back into the queue; may answer {'environment': "
        "{…}, 'files': {…}}, or raise Denied of batchhub.core.errors with a sentence. docs/authenticators.md.",
    ).tag(config=True)
    auth_state_hook = Any(
        None,
        help="Called as hook(person, auth_state) before pre_spawn_hook, where auth_state is kept; answers the same.",
    ).tag(config=True)
    post_stop_hook = Any(None, help="Called as hook(stop) when a server has ended. Nothing waits for it.").tag(
        config=True
    )
    hook_timeout = Float(30.0, min=0.1, help="Seconds that one call of these three may take.").tag(config=True)
    subdomain_host = Unicode(
        help="The hub's own address, as in https://hub.example.org, to give each server a host of its own below it "
        "(https://ann.hub.example.org): then no notebook's scripts share an origin with the hub or another server. Needs a DNS entry and "
        "a certificate for *.hub.example.org. Empty: hub and servers share one host."
    ).tag(config=True)
    keep_ended_days = Float(
        365.0,
        min=0,
        max=36_500,
        help="Days that ended runs, with their events, are kept in the database; then they are deleted for good. 0: no limit.",
    ).tag(config=True)
    keep_audit_days = Float(
        365.0,
        help="Days that the audit trail (who signed in, was refused, ended whose session …) is kept in the database. 0: no limit.",
    ).tag(config=True)
    keep_directories = Int(
        10,
        help="Directories of ended jobs (script, launcher, log) that are kept in a person's home on each cluster, the newest; older ones are "
        "removed as that person. 0: no limit.",
    ).tag(config=True)
    keep_directory_days = Float(30.0, help="Days that such a directory is kept at most. 0: no limit.").tag(config=True)
    template_dirs = List(Unicode(), help="Directories searched for job templates before BatchHub's own.").tag(
        config=True
    )
    authenticator_class = Any(
        "pam",
        help="How people sign in: an entry point of batchhub.authenticators (pam, dictionary, …), 'package.module:Class', a class, or a "
        "list of these, which are then offered together.",
    ).tag(config=True)
    same_people = Bool(
        False,
        help="With several ways to sign in: a name is the same person's in all of them. Otherwise each needs a username_prefix of its own.",
    ).tag(config=True)

    @validate("keep_audit_days")
    def _check_audit(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, int | float) or not 0 <= value <= 36_500:
            raise TraitError(f"BatchHub.keep_audit_days: {value!r} is not from 0 (no limit) to 36500 days.")
        return value

    @validate("keep_directories", "keep_directory_days")
    def _check_keep(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, int | float) or not 0 <= value <= 100_000:
            raise TraitError(
                f"BatchHub: {value!r} job directories, or days of them, are not from 0 (no limit) to 100000."
            )
        return value

    @default("state_dir")
    def _default_state_dir(self) -> str:
        if os.geteuid() == 0:
            return "/var/lib/batchhub"
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return str(Path(base) / "batchhub")


class Hub(Configurable):
    """The hub's own listener, which only the proxy and, if wanted, jobs talk to."""

    ip = Unicode("127.0.0.1", help="Address to listen on.").tag(config=True)
    port = Int(8081, min=1, max=65535, help="Port to listen on.").tag(config=True)
    url = Unicode(
        help="The hub's address as the proxy reaches it, where that is not http://IP:PORT of the two above: with several hubs, on other machines."
    ).tag(config=True)

    @validate("url")
    def _check_url(self, proposal: dict[str, object]) -> object:
        value = str(proposal["value"])
        if value and not re.fullmatch(r"http://[A-Za-z0-9.\-_:\[\]]+:[0-9]{1,5}", value):
            raise TraitError(f"Hub.url: {value!r} is not like http://hub1.example.org:8081.")
        return value


class Proxy(Configurable):
    """The public side."""

    ip = Unicode("0.0.0.0", help="Public address.").tag(config=True)  # noqa: S104 - it is the public side
    port = Int(8000, min=1, max=65535, help="Public port.").tag(config=True)
    api_ip = Unicode("127.0.0.1", help="Address of the control API; keep it on loopback.").tag(config=True)
    api_port = Int(8001, min=1, max=65535, help="Port of the control API.").tag(config=True)
    ssl_cert = Unicode(help="TLS certificate chain (PEM). Empty: plain HTTP, for a loopback or a TLS front only.").tag(
        config=True
    )
    ssl_key = Unicode(help="Its key (PEM).").tag(config=True)
    redirect_port = Int(
        0,
        min=0,
        max=65535,
        help="Port on which plain http is sent on to https at `port`, as 80 for 443; needs ssl_cert. 0: none.",
    ).tag(config=True)
    trusted_proxies = List(
        Unicode(), help="Addresses or networks of front-end proxies whose X-Forwarded headers are believed."
    ).tag(config=True)
    identity_headers = List(
        Unicode(),
        help="Headers in which a front end in trusted_proxies says who asks, as in ['Remote-User'], for HeaderAuthenticator. The proxy tells "
        "the hub what they say, and takes them out of every request, whoever sent it.",
    ).tag(config=True)
    https_in_front = Bool(
        False, help="A front end ends TLS for us: cookies are marked Secure though we speak plain HTTP ourselves."
    ).tag(config=True)
    reverse_ip = Unicode("0.0.0.0", help="Address on which jobs dial in, for clusters with `reverse` tunnels.").tag(  # noqa: S104
        config=True
    )
    reverse_port = Int(
        0,
        min=0,
        max=65535,
        help="Port on which jobs dial in by SSH, for clusters with `reverse` tunnels; those need one. 0: none.",
    ).tag(config=True)
    reverse_host = Unicode(
        help="Name or address of this machine for jobs that dial in; default: its full name. A cluster's own `reverse_host` wins."
    ).tag(config=True)
    workers = Int(
        1, help="Processes that carry the traffic, 1 to 64; they share port and routes. One uses one core."
    ).tag(config=True)
    drain_hours = Float(
        24.0, help="Hours that WebSockets and downloads of before a reload may last; then they are cut. 0: no limit."
    ).tag(config=True)
    metrics_ip = Unicode("127.0.0.1", help="Address of the metrics for Prometheus, which need no token there.").tag(
        config=True
    )
    metrics_port = Int(
        0, help="Port of the metrics. 0: none; with the token they are at /api/metrics of the control API in any case."
    ).tag(config=True)
    should_start = Bool(
        True, help="`batchhub` starts the proxy if it does not run; False when a service manager does."
    ).tag(config=True)

    @validate("workers")
    def _check_workers(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, int) or not 1 <= value <= 64:
            raise TraitError(f"Proxy.workers: {value!r} is not a number of processes from 1 to 64.")
        return value

    @validate("metrics_port")
    def _check_port(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, int) or not 0 <= value <= 65535:
            raise TraitError(f"Proxy.metrics_port: {value!r} is not a port from 1 to 65535, nor 0 for none.")
        return value

    @validate("drain_hours")
    def _check_drain(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 0 <= value <= 24 * 365:
            raise TraitError(f"Proxy.drain_hours: {value!r} hours are not from 0 (no limit) to 8760.")
        return value


class Pages(Configurable):
    """What people see."""

    title = Unicode("BatchHub", help="The site's name.").tag(config=True)
    announcement = Unicode(help="A sentence shown on every page; plain text.").tag(config=True)
    help_url = Unicode(help="Address of the site's documentation; a link in the page's foot.").tag(config=True)
    support = Unicode(
        help="Whom people ask for help, as in 'Questions: hpc@example.org'; plain text in the page's foot."
    ).tag(config=True)
    sign_in_words = Unicode(help="A sentence above the sign-in form, instead of ours; plain text.").tag(config=True)
    auto_login = Bool(
        False,
        help="Where another site's sign-in page, or Kerberos, is the only way in, go there at once instead of showing a button.",
    ).tag(config=True)
    metrics_public = Bool(
        False, help="Answer /hub/metrics to anybody; otherwise loopback and admins' tokens only."
    ).tag(config=True)


class Sessions(Configurable):
    """How long a sign-in lasts."""

    idle_hours = Float(
        24.0,
        help="Hours without a request to the hub's pages after which these want a new sign-in. Notebooks are not concerned: see ticket_hours.",
    ).tag(config=True)
    absolute_days = Float(
        14.0, help="Days after which a session ends in any case, with the notebooks' connections that it opened."
    ).tag(config=True)
    ticket_hours = Float(
        12.0,
        help="Hours that a browser may leave a notebook alone before its page has to be loaded again; a page that is open asks by itself, and so "
        "is not left alone. Signing out ends it at once.",
    ).tag(config=True)

    @validate("idle_hours", "absolute_days", "ticket_hours")
    def _check_times(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 0.01 <= value <= 100_000:
            raise TraitError(
                f"Sessions.{getattr(proposal['trait'], 'name', '')}: {value!r} is not from 0.01 to 100000."
            )
        return value


class Watching(Configurable):
    """How often a scheduler is asked. One question asks for all jobs of a cluster."""

    fast = Float(2.0, help="Seconds between two questions while somebody waits for a server.").tag(config=True)
    slow = Float(20.0, help="Seconds between two questions once nobody waits; reached by steps.").tag(config=True)
    ceiling = Float(
        60.0,
        help="Longest pause, in seconds: when nothing has changed for minutes, or the scheduler does not answer. So late may an end be noticed.",
    ).tag(config=True)
    confirmations = Int(2, min=1, help="Good answers that must lack a job before accounting is asked for its end.").tag(
        config=True
    )
    absent_after = Float(
        180.0,
        min=0,
        help="Seconds after a submit without an answer before a job that cannot be found by its name is submitted again; longer than a "
        "submit command may take (sbatch retries for two minutes).",
    ).tag(config=True)
    accounting_patience = Float(
        60.0,
        min=0,
        help="Seconds that a job which left the queue may lack a final record before it is called ended without one.",
    ).tag(config=True)

    orphans = Enum(
        ("report", "adopt", "cancel"),
        "report",
        help="What is done with jobs that bear our tag, are proven to be this hub's, and have no row in the database (after a restored "
        "backup, say): report lists them for admins, adopt makes their servers again, cancel ends them. Others' are only ever listed.",
    ).tag(config=True)
    orphans_every = Float(
        600.0, help="Seconds between two looks for such jobs; each lists all jobs of a cluster once. At least 1."
    ).tag(config=True)
    orphans_after = Float(
        180.0, help="Seconds that such a job must have been there before anything is done about it."
    ).tag(config=True)

    @validate("orphans_every", "orphans_after")
    def _check_orphans(self, proposal: dict[str, object]) -> object:
        value, name = proposal["value"], getattr(proposal["trait"], "name", "")
        least = 1.0 if name == "orphans_every" else 0.0
        if not isinstance(value, float) or not least <= value <= 86400:
            raise TraitError(f"Watching.{name}: {value!r} seconds are not between {least:g} and 86400.")
        return value

    @validate("fast", "slow", "ceiling")
    def _check_pause(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or value < 0.2:
            raise TraitError(f"Watching: {value!r} seconds is too often; at least 0.2.")
        # All that the file sets is there by now, whatever its order.
        if not self.fast <= self.slow <= self.ceiling:
            raise TraitError(
                f"Watching: fast ({self.fast:g} s), slow ({self.slow:g} s) and ceiling ({self.ceiling:g} s) must each be at least the one "
                "before it."
            )
        return value


class Starting(Configurable):
    """Starts and stops."""

    start_timeout = Float(
        300.0,
        min=1,
        help="Seconds from the job's start to the application's first answer. Waiting in the queue has no limit.",
    ).tag(config=True)
    requeue_grace = Float(
        60.0,
        min=0,
        help="Seconds that a job which was preempted or lost its node is given to show up in the queue again.",
    ).tag(config=True)
    first_word = Float(
        10.0,
        min=0,
        max=60,
        help="Seconds that the form waits for the scheduler's first answer before the waiting page.",
    ).tag(config=True)
    cancel_again = Float(15.0, min=1, help="Least pause in seconds between two cancels of one job.").tag(config=True)
    stop_grace = Float(
        10.0,
        help="Seconds that an application which was asked to end has for it, so that kernels can close what they hold; then its job is "
        "cancelled. 0: jobs are cancelled at once.",
    ).tag(config=True)

    @validate("stop_grace")
    def _check_grace(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 0 <= value <= 300:
            raise TraitError(f"Starting.stop_grace: {value!r} seconds are not from 0 (cancel at once) to 300.")
        return value


class Limits(Configurable):
    """How much one person, and everybody together, may have. Profiles have `at_most` and `at_most_each` besides."""

    servers_each = Int(10, help="Servers of one person that have not ended. 0: no limit.").tag(config=True)
    concurrent_starts = Int(
        100,
        help="Servers of everybody that are being submitted or whose application is starting; those that wait in the queue do not count. "
        "0: no limit.",
    ).tag(config=True)
    starts_each = Int(
        20,
        help="Starts of one person within `starts_minutes`, refused ones too: each is a command to the scheduler. 0: no limit.",
    ).tag(config=True)
    starts_minutes = Float(10.0, help="Minutes in which `starts_each` are counted.").tag(config=True)

    @validate("servers_each", "concurrent_starts", "starts_each")
    def _check_count(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, int) or value < 0:
            raise TraitError(f"Limits: {value!r} is no number of servers; 0 is no limit.")
        return value

    @validate("starts_minutes")
    def _check_window(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 0 < value <= 24 * 60:
            raise TraitError(f"Limits.starts_minutes: {value!r} minutes are not above 0 and at most 1440.")
        return value


class Walltime(Configurable):
    """Before a job's time is up. A profile's ``time_up`` table goes before these."""

    warn_before = Float(
        900.0,
        help="Seconds before the end at which its owner is warned on the hub's pages; a fifth of the job's time at most. 0: never.",
    ).tag(config=True)
    save_before = Float(
        120.0,
        help="Seconds before the end at which the job says so in its log, runs the profile's command and sends its signal; a fifth of the job's "
        "time at most. 0: only when the scheduler signals that the end is near.",
    ).tag(config=True)

    @validate("warn_before", "save_before")
    def _check_before(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 0 <= value <= 7 * 86400:
            raise TraitError(f"Walltime: {value!r} seconds are not from 0 (never) to a week.")
        return value


class Culling(Configurable):
    """Servers that the hub ends by itself. A profile's own `idle_timeout` and `max_lifetime` win."""

    idle_timeout = Float(
        0.0,
        help="Seconds without use after which a server is ended. A kernel that computes is in use; a page that is merely open is not, with "
        "Jupyter; of other applications only what passes the proxy is known. 0: never.",
    ).tag(config=True)
    max_lifetime = Float(
        0.0,
        help="Seconds after its job's begin at which a server is ended, whatever it does. 0: no limit but the job's own.",
    ).tag(config=True)
    cull_every = Float(60.0, help="Seconds between two looks at who is in use.").tag(config=True)

    @validate("idle_timeout", "max_lifetime")
    def _check_limit(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not (value == 0 or 10 <= value <= 365 * 24 * 3600):
            raise TraitError(f"Culling: {value!r} seconds are not from 10 to a year; 0 is no limit.")
        return value

    @validate("cull_every")
    def _check_pause(self, proposal: dict[str, object]) -> object:
        value = proposal["value"]
        if not isinstance(value, float) or not 1 <= value <= 3600:
            raise TraitError(f"Culling.cull_every: {value!r} seconds are not from 1 to 3600.")
        return value


CONCERNS: tuple[type[Configurable], ...] = (
    BatchHub,
    Hub,
    Proxy,
    Pages,
    Sessions,
    Watching,
    Starting,
    Limits,
    Culling,
    Walltime,
)
"""Every class above, in the order they are documented."""
