"""The hub's pages and its REST API, on tornado.

Handlers are thin: they read and bound what came in, ask :class:`~batchhub.control.service.HubService` or the people behind
:mod:`batchhub.web.people`, and print the answer. What a server is and does is decided below, in ``control`` and ``core``.
"""
