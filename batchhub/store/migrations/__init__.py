"""Alembic's migrations.

After a change to :mod:`batchhub.store.models`: ``python -m batchhub.store "what changes"`` writes a draft into ``versions/``. Read it,
try it both ways on a filled database (``tests/store/test_schema.py`` shows how), and commit it with the change.
"""
