"""The data plane: a process of its own that owns the public socket, the routes and every open connection.

From the wire inwards: ``wire`` and ``framing`` read messages and refuse what could be read in two ways, ``headers`` rewrites them,
``downstream`` and ``upstream`` are the two sides of a request and ``exchange`` brings them together; ``access`` decides who may pass,
``book`` keeps the routes, ``api`` is the control interface and ``client`` the hub's end of it; ``server`` puts it all together.
"""
