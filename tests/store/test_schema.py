"""Migrations: equal to the models, both ways, and what start refuses."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from batchhub.core.errors import WrongSchema
from batchhub.store import Store, downgrade, revision, upgrade
from batchhub.store.engine import open_engine, read_url
from batchhub.store.models import Base
from batchhub.store.schema import newest_revision


def execute(url: str, *statements: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_the_migrations_make_what_the_models_say(url) -> None:
    upgrade(url)
    engine = open_engine(read_url(url), 1)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, Base.metadata)
        assert found == [], 'write a migration: python -m batchhub.store "what changes"'
        made = {
            sql
            for (sql,) in connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql > ''")
        }
    engine.dispose()
    for table in Base.metadata.sorted_tables:  # compare_metadata does not look at an index's WHERE
        for index in table.indexes:
            assert str(CreateIndex(index).compile(engine)) in made


def test_the_models_compile_for_postgresql() -> None:
    script = "".join(
        str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in Base.metadata.sorted_tables
    )
    assert "TIMESTAMP WITH TIME ZONE" in script
    assert "BIGSERIAL" in script
    live = next(one for one in Base.metadata.tables["servers"].indexes if one.unique and one.name.endswith("live_run"))
    assert "WHERE phase != 'ended'" in str(CreateIndex(live).compile(dialect=postgresql.dialect()))


async def test_there_and_back_on_a_filled_database(store, url, make) -> None:
    await store.add_server(make())
    await store.close()
    assert upgrade(url) == newest_revision()
    downgrade(url, "base")
    assert revision(url) is None
    engine = open_engine(read_url(url), 1)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
    assert upgrade(url) == newest_revision() == revision(url)


async def test_a_new_database_is_created_when_allowed(url, clock) -> None:
    careful = Store(url, clock=clock, create=False)
    with pytest.raises(WrongSchema, match="batchhub db upgrade"):
        await careful.open()
    assert revision(url) is None
    store = Store(url, clock=clock)
    await store.open()
    await store.check_schema()
    await store.close()
    assert revision(url) == newest_revision()
    await careful.open()
    await careful.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE alembic_version SET version_num = 'ffff'", "a newer version"),
        ("DELETE FROM alembic_version", "not BatchHub's"),
        ("DROP TABLE alembic_version", "not BatchHub's"),
    ],
)
async def test_another_schema_is_refused(url, clock, statement, words) -> None:
    upgrade(url)
    execute(url, statement)
    with pytest.raises(WrongSchema, match=words):
        await Store(url, clock=clock).open()
    with pytest.raises(WrongSchema):
        upgrade(url)


async def test_an_older_schema_names_the_command(url, clock) -> None:
    upgrade(url, "0001")
    words = rf"at revision 0001, this version of BatchHub needs {newest_revision()}.*batchhub db upgrade"
    with pytest.raises(WrongSchema, match=words):
        await Store(url, clock=clock).open()


async def test_somebody_elses_database_is_left_alone(url, clock) -> None:
    execute(url, "CREATE TABLE theirs (x)")
    with pytest.raises(WrongSchema, match="of its own"):
        await Store(url, clock=clock).open()
    with pytest.raises(WrongSchema, match="of its own"):
        upgrade(url)
    assert revision(url) is None


async def test_the_schema_is_checked_again_later(store, url) -> None:
    execute(url, "UPDATE alembic_version SET version_num = 'ffff'")
    with pytest.raises(WrongSchema):
        await store.check_schema()


def test_many_start_on_one_new_file(url) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(upgrade, [url] * 8)) == {newest_revision()}
