"""The data plane: processes of their own that own the public socket, the routes and every open connection.

Where to look, from the wire inwards:

Reading and writing HTTP, pure:
    ``wire`` (heads; what two readers could read differently is refused), ``framing`` (where a body ends), ``headers`` (what is written into heads
    that are sent on), ``pages`` (answers of our own), ``target`` (where a route leads).
What is in force:
    ``book`` (routes, what has ended, offers; the changes to them), ``journal`` (its file), ``settings`` (what was told at start), ``tls``.
Who may pass:
    ``access`` (the decision, pure), ``gate`` (its facts of a request, and which host serves what), ``tokens`` (asked of the hub), ``grants`` (what is
    open by which right), ``doorway`` (how a browser gets a ticket at a server's own host).
One request, from the client to the application and back:
    ``exchange`` (one request and its answer: read it first), ``downstream`` (the client's connection), ``upstream`` (the application's and its
    pool), ``outgoing`` (the head that is sent on), ``habit`` (what the last request said), ``relay`` (raw streams), ``context`` (what all share).
Carrying traffic:
    ``plane`` (all of the above in one process, and its end without cuts), ``tasks``, ``asking``, ``probe`` and ``question`` (requests of our own), ``counters``,
    ``accesslog``, ``allocator``.
Control:
    ``control`` (what the API needs of the process it runs in), ``api`` (the REST interface), ``client`` (the hub's end of it), ``metrics``.
Processes:
    ``run`` (the program's begin), ``supervisor`` and ``members`` (its workers, as it sees them), ``worker``, ``link`` (what they say to each other),
    ``listeners`` (the sockets), ``spawn``, ``handover`` (the reload), ``server`` (all in one process, for tests and benchmarks).
In place of configurable-http-proxy alone:
    ``forward`` (its options), ``errorpages``, ``redirect``.

It knows tunnels by :class:`batchhub.core.ports.Tunnel` alone, and of the hub nothing but the address where it asks about tokens.
"""
