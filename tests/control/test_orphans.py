"""Jobs with our tag that no row knows: who is believed, and what is done, on a real database and a cluster in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.control.orphans import (
    Deed,
    Finding,
    Grounds,
    Orphan,
    OrphanKeeper,
    OrphanSettings,
    Policy,
    judge,
    row_of,
)
from batchhub.control.tagged import TaggedJobs
from batchhub.core.errors import NotFound, StoreUnavailable, Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Outcome, Phase, Server, ServerId, UserName, Want
from batchhub.core.proofs import Facts, proof_document
from batchhub.store.store import Store
from tests.control.memory import KEY, T0, Clock, Job, MemoryBuilder, MemoryCluster, MemoryTransport

ID = ServerId("abcdefghijkl")
LONG_AGO = T0 - timedelta(hours=1)
FACTS = Facts(ID, UserName("alice"), "", "hpc", "lab", "alice", LONG_AGO, generation=2, options={"cores": 2})
JOB = JobReport(JobId("7"), JobState.RUNNING, user="alice", name=f"bh-{ID}")
PROVEN = Finding(JOB, LONG_AGO, facts=FACTS, named=(JobId("7"),))
BY = {policy: OrphanSettings(policy=policy) for policy in Policy}


# ---------------------------------------------------------------- the decision


@pytest.mark.parametrize(
    ("change", "report", "adopt", "cancel"),
    [
        ({}, Deed.LIST, Deed.ADOPT, Deed.CANCEL),
        ({"named": None}, Deed.LIST, Deed.WAIT, Deed.WAIT),
        ({"named": ()}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"named": (JobId("8"),)}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"named": (JobId("7"), JobId("8"))}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"named": (JobId("7.head.domain"),)}, Deed.LIST, Deed.ADOPT, Deed.CANCEL),
        ({"namesake": True}, Deed.LIST, Deed.WAIT, Deed.CANCEL),
        ({"unfit": "No such profile."}, Deed.LIST, Deed.LIST, Deed.CANCEL),
        ({"since": T0 - timedelta(seconds=170)}, Deed.WAIT, Deed.WAIT, Deed.WAIT),
        ({"ended": True}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"facts": None}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"facts": replace(FACTS, account="bob")}, Deed.LIST, Deed.LIST, Deed.LIST),
        ({"facts": replace(FACTS, id=ServerId("zzzzzzzzzzzz"))}, Deed.LIST, Deed.LIST, Deed.LIST),
    ],
)
def test_what_is_done_about_it(change: dict, report: Deed, adopt: Deed, cancel: Deed) -> None:
    found = replace(PROVEN, **change)
    judged = [judge(found, T0, BY[policy]) for policy in (Policy.REPORT, Policy.ADOPT, Policy.CANCEL)]
    assert [deed for deed, _ in judged] == [report, adopt, cancel]
    assert all(words.endswith(".") for _, words in judged)


@given(
    st.sampled_from(list(Policy)),
    st.builds(
        Finding,
        st.sampled_from([JOB, replace(JOB, user="bob"), replace(JOB, name="bh-zzzzzzzzzzzz")]),
        st.sampled_from([LONG_AGO, T0]),
        st.booleans(),
        st.sampled_from([None, FACTS]),
        st.just(""),
        st.sampled_from(["", "No."]),
        st.booleans(),
        st.sampled_from([None, (), (JobId("7"),), (JobId("8"),), (JobId("7"), JobId("8"))]),
    ),
)
def test_nothing_is_ever_done_without_proof_age_and_a_second_word(policy: Policy, found: Finding) -> None:
    deed, _ = judge(found, T0, BY[policy])
    if deed in {Deed.ADOPT, Deed.CANCEL}:
        assert (deed, policy) in {(Deed.ADOPT, Policy.ADOPT), (Deed.CANCEL, Policy.CANCEL)}
        assert (found.job, found.facts, found.since, found.named) == (JOB, FACTS, LONG_AGO, (JobId("7"),))
        assert not found.ended
    if deed is Deed.ADOPT:
        assert not found.namesake
        assert not found.unfit


def test_the_row_can_never_be_submitted_again() -> None:
    row = row_of(PROVEN, "/home/alice/.batchhub/jobs/abcdefghijkl", T0)
    assert (row.phase, row.job_id, row.submit_tried, row.generation) == (Phase.QUEUED, "7", T0, 2)
    assert (row.user, row.created, row.options) == ("alice", LONG_AGO, {"cores": 2})


# ---------------------------------------------------------------- a sweep


@dataclass
class Yard:
    """A cluster, a database and a keeper."""

    store: Store
    clock: Clock
    cluster: MemoryCluster
    builder: MemoryBuilder
    woken: int = 0
    answers: bool = True

    def keeper(self, policy: Policy = Policy.REPORT, **settings: object) -> OrphanKeeper:
        jobs = TaggedJobs(MemoryTransport(self.cluster), self.cluster, self.builder)
        grounds = Grounds(jobs, lambda: self.answers, self.wake)
        made = OrphanSettings(policy=policy, **settings)  # type: ignore[arg-type]
        return OrphanKeeper(clusters={"hpc": grounds}, store=self.store, clock=self.clock, settings=made)

    def wake(self) -> None:
        self.woken += 1

    def job(self, number: str = "7", server: str = ID, user: str = "alice", age: float = 3600) -> JobId:
        job_id = JobId(number)
        submitted = self.clock() - timedelta(seconds=age)
        report = JobReport(job_id, JobState.RUNNING, user=user, host="n1", submitted=submitted, started=submitted)
        self.cluster.jobs[job_id] = Job(report, f"bh-{server}", user)
        return job_id

    def proof(self, row: Server, where: str = "") -> None:
        where = where or f"/home/{row.account}/.batchhub/jobs/{row.id}"
        self.cluster.files[f"{where}/server.json"] = proof_document(KEY, row)


def run(server: str = ID, user: str = "alice", name: str = "", **more: object) -> Server:
    row = Server(ServerId(server), UserName(user), name, "hpc", "lab", user, LONG_AGO, LONG_AGO)
    return replace(row, **more)  # type: ignore[arg-type]


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    clock = Clock()
    store = Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", clock=clock)
    await store.open()
    yield Yard(store, clock, MemoryCluster(clock), MemoryBuilder())
    await store.close()


async def only(keeper: OrphanKeeper) -> Orphan:
    await keeper.sweep()
    (orphan,) = keeper.found()
    return orphan


async def test_a_proven_job_is_adopted_once(yard: Yard) -> None:
    yard.job()
    yard.proof(run(generation=2, name="big", options={"cores": 2}))
    keeper = yard.keeper(Policy.ADOPT)
    orphan = await only(keeper)
    assert (orphan.deed, orphan.user) == (Deed.ADOPT, "alice")
    row = await yard.store.server(ID)
    assert (row.job_id, row.phase, row.generation, row.name) == ("7", Phase.QUEUED, 2, "big")
    assert row.directory == f"/home/alice/.batchhub/jobs/{ID}"
    assert [event.kind for event in await yard.store.events_of(ID)] == ["requested", "adopted"]
    assert yard.woken == 1
    await keeper.sweep()
    assert keeper.found() == ()
    assert yard.cluster.count("submit") == yard.cluster.count("cancel") == 0


async def test_a_proven_job_is_cancelled(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    orphan = await only(yard.keeper(Policy.CANCEL))
    assert orphan.deed is Deed.CANCEL
    assert yard.cluster.jobs == {}
    with pytest.raises(NotFound):
        await yard.store.server(ID)


async def test_it_is_listed_and_left_alone(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    for keeper in (yard.keeper(), yard.keeper(Policy.REPORT)):
        orphan = await only(keeper)
        assert (orphan.deed, orphan.words) == (Deed.LIST, "It is this hub's: the server of alice.")
    assert (yard.woken, len(yard.cluster.jobs)) == (0, 1)


@pytest.mark.parametrize("policy", [Policy.ADOPT, Policy.CANCEL])
async def test_a_name_alone_proves_nothing(yard: Yard, policy: Policy) -> None:
    """Another BatchHub's job, a stranger's of such a name, a proof copied from somebody else or from another run of one's own."""
    yard.job("1")
    yard.job("2", "bbbbbbbbbbbb", "mallory")
    yard.cluster.files["/home/mallory/.batchhub/jobs/bbbbbbbbbbbb/server.json"] = proof_document(b"x" * 32, run())
    yard.job("3", "cccccccccccc", "mallory")
    yard.proof(run("cccccccccccc"), "/home/mallory/.batchhub/jobs/cccccccccccc")
    yard.job("4", "dddddddddddd", "mallory")
    yard.proof(run("eeeeeeeeeeee", "mallory"), "/home/mallory/.batchhub/jobs/dddddddddddd")
    yard.job("5", "UPPER", "mallory")
    keeper = yard.keeper(policy)
    await keeper.sweep()
    assert {orphan.job.id: orphan.deed for orphan in keeper.found()} == dict.fromkeys("1234", Deed.LIST)
    assert len(yard.cluster.jobs) == 5
    assert await yard.store.live_servers() == ()


async def test_a_forged_row_in_the_listing_harms_nobody(yard: Yard) -> None:
    """It names a proven run, but somebody else's job: the scheduler itself knows none of that name, or another one."""

    class Forged(MemoryCluster):
        def read_tagged(self, done, prefix):
            del done, prefix
            return [replace(JOB, id=JobId("99"), submitted=LONG_AGO)]

    yard.cluster = Forged(yard.clock)
    victim = yard.job("99", "someotherjob")
    yard.proof(run())
    for policy in (Policy.ADOPT, Policy.CANCEL):
        orphan = await only(yard.keeper(policy))
        assert orphan.deed is Deed.LIST
        assert "knows 0 jobs" in orphan.words
    yard.job("7")
    assert (await only(yard.keeper(Policy.CANCEL))).deed is Deed.LIST
    assert victim in yard.cluster.jobs


async def test_a_live_run_of_that_name_is_never_doubled(yard: Yard) -> None:
    await yard.store.add_server(run("zzzzzzzzzzzz"))
    yard.job()
    yard.proof(run())
    keeper = yard.keeper(Policy.ADOPT)
    orphan = await only(keeper)
    assert (orphan.deed, "runs elsewhere already" in orphan.words) == (Deed.WAIT, True)
    assert len(await yard.store.live_servers()) == 1
    # Its former run comes to an end, as after a restored backup it will: now there is room.
    await yard.store.update(ServerId("zzzzzzzzzzzz"), lambda row: replace(row, phase=Phase.ENDED, want=Want.DOWN))
    assert (await only(keeper)).deed is Deed.ADOPT


async def test_a_job_whose_row_is_there_is_not_touched_whatever_its_phase(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    await yard.store.add_server(run(job_id=None))
    keeper = yard.keeper(Policy.CANCEL)
    await keeper.sweep()
    assert keeper.found() == ()
    await yard.store.update(ID, lambda row: replace(row, phase=Phase.ENDED, outcome=Outcome.STOPPED))
    orphan = await only(keeper)
    assert (orphan.deed, orphan.words) == (Deed.LIST, "Its server has ended here, but its job is still there.")
    assert len(yard.cluster.jobs) == 1


async def test_a_young_job_waits_also_where_the_scheduler_does_not_say_its_age(yard: Yard) -> None:
    job = yard.job(age=10)
    yard.proof(run())
    keeper = yard.keeper(Policy.ADOPT)
    assert (await only(keeper)).deed is Deed.WAIT
    yard.cluster.jobs[job].report = replace(yard.cluster.jobs[job].report, submitted=None)
    yard.clock.move(170)
    assert (await only(keeper)).deed is Deed.WAIT
    assert not [path for path in yard.cluster.calls if path == "find"]
    yard.clock.move(20)
    assert (await only(keeper)).deed is Deed.ADOPT


async def test_nobody_is_asked_while_the_cluster_is_silent_and_what_fails_is_tried_again(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    yard.answers = False
    keeper = yard.keeper(Policy.ADOPT)
    await keeper.sweep()
    assert (yard.cluster.calls, keeper.found()) == ([], ())
    yard.answers, yard.cluster.down = True, True
    await keeper.sweep()
    assert keeper.found() == ()
    with pytest.raises(Unreachable):
        await keeper.survey("hpc")
    yard.cluster.down = False
    assert (await only(keeper)).deed is Deed.ADOPT


async def test_a_database_that_is_away_loses_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.job()
    yard.proof(run())
    keeper = yard.keeper(Policy.ADOPT)

    async def away(row: Server) -> Server:
        raise StoreUnavailable("The database does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(yard.store, "add_server", away)
        assert (await only(keeper)).deed is Deed.WAIT
    assert (await only(keeper)).deed is Deed.ADOPT


async def test_a_profile_that_is_gone(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    yard.builder.unfit_words = "There is no profile 'lab'."
    orphan = await only(yard.keeper(Policy.ADOPT))
    assert (orphan.deed, orphan.words) == (
        Deed.LIST,
        "It is this hub's, but cannot go on here. There is no profile 'lab'.",
    )
    yard.builder.unfit_words = ""
    yard.proof(run(cluster="elsewhere"))
    assert "belongs to cluster 'elsewhere'" in (await only(yard.keeper(Policy.ADOPT))).words


async def test_a_survey_does_nothing(yard: Yard) -> None:
    yard.job()
    yard.proof(run())
    for policy, deed in ((Policy.ADOPT, Deed.ADOPT), (Policy.CANCEL, Deed.CANCEL)):
        (orphan,) = await yard.keeper(policy).survey("hpc")
        assert orphan.deed is deed
    assert (len(yard.cluster.jobs), await yard.store.live_servers(), yard.woken) == (1, (), 0)


async def test_one_who_submits_a_thousand_such_names_holds_up_nobody(yard: Yard) -> None:
    for number in range(1000):
        name = "".join("abcdefghij"[int(digit)] for digit in f"{number:012d}")
        yard.job(str(1000 + number), name, "mallory")
    yard.job("9000", "zzzzzzzzzzzz", "alice")
    yard.proof(run("zzzzzzzzzzzz"))
    keeper = yard.keeper(Policy.ADOPT, proofs_of_one=10)
    await keeper.sweep()
    assert [orphan.job.user for orphan in keeper.found()].count("mallory") == 10
    assert [row.id for row in await yard.store.live_servers()] == ["zzzzzzzzzzzz"]
    assert yard.cluster.calls == ["tagged", "find"], "one listing; and one question about what is proven"
    first = {orphan.job.id for orphan in keeper.found()}
    await keeper.sweep()
    assert first.isdisjoint({orphan.job.id for orphan in keeper.found()}), "the others' turn comes"


async def test_one_listing_a_sweep_and_nothing_more_where_all_is_known(yard: Yard) -> None:
    yard.job()
    await yard.store.add_server(run())
    await yard.keeper(Policy.CANCEL).sweep()
    assert yard.cluster.calls == ["tagged"]
