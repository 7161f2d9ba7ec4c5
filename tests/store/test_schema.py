"""Migrations: equal to the models, both ways, and what start refuses."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from batchhub.core.errors import Conflict, WrongSchema
from batchhub.core.model import Endpoint, JobId, JobReport, JobState, Observation, Outcome, Phase, Truth, Want
from batchhub.store import LeaderLock, Store, downgrade, revision, upgrade
from batchhub.store.engine import open_engine, read_url
from batchhub.store.models import AuditRow, Base, KeyRow, UserRow
from batchhub.store.schema import newest_revision, revisions
from tests.store.conftest import NOW


def execute(url: str, *statements: str) -> None:
    engine = open_engine(read_url(url), 1)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def contents(url: str) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, as the database itself describes them."""
    engine, found = open_engine(read_url(url), 1), MetaData()
    with engine.connect() as connection:
        found.reflect(connection)
        rows = {
            table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in found.sorted_tables
        }
    engine.dispose()
    return {name: sorted(some, key=str) for name, some in rows.items() if name != "alembic_version"}


def filled(rows: dict[str, list[dict[str, object]]]):
    """Without the tables that are empty."""
    return {table: some for table, some in rows.items() if some}


def less(rows: dict[str, list[dict[str, object]]], kept: dict[str, list[dict[str, object]]]):
    """``rows`` without the tables and columns that ``kept`` does not have."""
    names = {table: set(some[0]) for table, some in kept.items() if some}
    return {
        table: [{name: row[name] for name in row if name in names[table]} for row in rows[table]] for table in names
    }


def test_the_migrations_make_what_the_models_say(url) -> None:
    upgrade(url)
    engine = open_engine(read_url(url), 1)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, Base.metadata)
        assert found == [], 'write a migration: python -m batchhub.store "what changes"'
        # compare_metadata does not look at an index's WHERE.
        sqlite = connection.dialect.name == "sqlite"
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'index'" if sqlite else _INDEXES
        made = dict(connection.exec_driver_sql(asked).all())
    engine.dispose()
    for table in Base.metadata.sorted_tables:
        for index in table.indexes:
            assert index.unique == ("UNIQUE" in made[index.name])
            partial = index.dialect_options["sqlite"]["where"] is not None
            assert partial == ("WHERE" in made[index.name]) == ("'ended'" in made[index.name])


_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"


def test_the_models_compile_for_postgresql() -> None:
    script = "".join(
        str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in Base.metadata.sorted_tables
    )
    assert "TIMESTAMP WITH TIME ZONE" in script
    assert "BIGSERIAL" in script
    live = next(one for one in Base.metadata.tables["servers"].indexes if one.unique and one.name.endswith("live_run"))
    assert "WHERE phase != 'ended'" in str(CreateIndex(live).compile(dialect=postgresql.dialect()))


async def fill(store: Store, make, clock) -> None:
    """Something in every table and nearly every column."""
    alive = await store.add_server(make(options={"cores": 4, "course": "é", "fast": True, "share": 0.5}))
    ended = await store.add_server(make("bob", "gpu", told=NOW, active=NOW, warned=NOW, log_tail="the end\n"))
    waiting = replace(alive, phase=Phase.QUEUED, job_id=JobId("42"), endpoint=Endpoint("n1", 80, "/s"), active=NOW)
    await store.update(alive.id, lambda _: waiting, kind="phase")
    over = {"phase": Phase.ENDED, "want": Want.DOWN, "outcome": Outcome.FAILED, "exit_code": 1, "ended": NOW}
    await store.update(ended.id, lambda row: replace(row, **over), kind="phase", by="ann")
    await store.get_or_create_user("cat", True, login=True)
    for key in ("a" * 64, "b" * 64):
        fields = {"created": NOW, "expires": NOW, "absolute": NOW, "address": "::1", "agent": "Firefox"}
        await store.add_session(id=key, user="ann", **fields)
    await store.revoke_session("b" * 64, NOW)
    await store.add_token(hash="c" * 64, first="bh_abc", user="cat", note="n", created=NOW, expires=None)
    report = JobReport(JobId("42"), JobState.PENDING, "PD", "Priority", estimated_start=NOW)
    await store.save_sightings({alive.id: Observation(Truth.SEEN, NOW, report)})
    await store.note_cluster("c1", NOW, "no answer", NOW)
    await _fill_identity(store)
    if store.shared:
        lead = LeaderLock(store._url.render_as_string(hide_password=False), "hub1", clock)
        assert await lead.acquire() == 1
        await lead.close()


async def _fill_identity(store: Store) -> None:
    about_ann = UserRow.name == "ann"
    await store.write(
        lambda session: session.execute(
            update(UserRow).where(about_ann).values(groups=["g"], way="pam", auth_state="x")
        )
    )
    await store.write(
        lambda session: session.add_all(
            [
                AuditRow(at=NOW, kind="sign-in", user_name="ann", by="ann", address="::1", words="with pam"),
                KeyRow(user_name="ann", cluster="c1", created=NOW, public="ssh-ed25519 AAAA", sealed="x", works=NOW),
            ]
        )
    )


async def test_every_step_there_and_back_on_a_filled_database(store, url, make, clock) -> None:
    """What both revisions have is the same before and after, in every table, column and row."""
    await fill(store, make, clock)
    await store.close()
    newest = contents(url)
    assert all(newest.values()) or not store.shared, "a table is empty, so nothing is tried of it"
    at = {newest_revision(): newest}
    for earlier in reversed(revisions()[:-1]):
        before = contents(url)
        downgrade(url, earlier)
        assert revision(url) == earlier
        at[earlier] = contents(url)
        assert filled(at[earlier]) == less(before, at[earlier])
        assert {name for name, rows in at[earlier].items() if rows} >= {
            "users",
            "servers",
            "events",
            "sessions",
            "tokens",
        }
    for later in revisions()[1:]:
        before = contents(url)
        upgrade(url, later)
        assert less(contents(url), before) == filled(before)
    store = Store(url, clock=clock)
    await store.open()
    assert [row.job_id for row in await store.live_servers()] == ["42"]
    again = make("bob", "gpu")
    await store.add_server(again)
    with pytest.raises(Conflict):  # the constraints are there again
        await store.add_server(make("bob", "gpu"))
    await store.close()


def test_back_to_what_is_no_revision(url) -> None:
    upgrade(url)
    with pytest.raises(WrongSchema, match="known: base, 0001, 0002"):
        downgrade(url, "0000")
    assert revision(url) == newest_revision()


async def test_there_and_back_to_nothing_on_a_filled_database(store, url, make, clock) -> None:
    await fill(store, make, clock)
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
    execute(url, "CREATE TABLE theirs (x int)")
    with pytest.raises(WrongSchema, match="of its own"):
        await Store(url, clock=clock).open()
    with pytest.raises(WrongSchema, match="of its own"):
        upgrade(url)
    assert revision(url) is None


async def test_the_schema_is_checked_again_later(store, url) -> None:
    execute(url, "UPDATE alembic_version SET version_num = 'ffff'")
    with pytest.raises(WrongSchema):
        await store.check_schema()


def test_many_start_on_one_new_database(url) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(upgrade, [url] * 8)) == {newest_revision()}


async def test_a_token_that_ends_with_a_session_does_not_outlive_it_by_a_downgrade(store, url, clock) -> None:
    await store.get_or_create_user("ann")
    times = {"created": NOW, "expires": NOW, "absolute": NOW}
    await store.add_session(id="a" * 64, user="ann", address="", agent="", **times)
    for digest, session in (("b" * 64, "a" * 64), ("c" * 64, None)):
        await store.add_token(hash=digest, first="bh_", user="ann", note="", created=NOW, expires=None, session=session)
    await store.close()
    downgrade(url, "0004")
    assert [row["hash"] for row in contents(url)["tokens"]] == ["c" * 64]
