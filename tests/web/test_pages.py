"""Home, form, waiting page, how it ended, admin list, tokens."""

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape

import pytest

from batchhub.control.orphans import Deed, Orphan
from batchhub.core.errors import StoreUnavailable, SubmitRejected, TooMany, Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Outcome, Phase, Want
from batchhub.web.ports import WebSettings
from tests.web.fakes import FAILED, LAB, PENDING, RUNNING, START, STUDIO, Browser, Site, open_site

GOOD = {"profile": "lab", "partition": "short", "cores": "2", "memory": "8G", "walltime": "2h", "environment": "2026.1"}


@pytest.mark.parametrize("path", ["/", "/hub", "/hub/"])
async def test_the_root_leads_home(site: Site, path: str) -> None:
    answer = await site.browser().get(path)
    assert (answer.code, answer.headers["Location"]) == (302, "/hub/home")


async def test_an_empty_home_offers_every_profile(ann: Browser) -> None:
    await ann.get("/hub/home")
    ann.has("Nothing is running.", "JupyterLab", "RStudio", "/hub/spawn/ann?profile=rstudio", "Add a named server")


async def test_home_tells_state_node_and_time_left(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.READY, host="n017", job_id=JobId("4711"), report=RUNNING)
    site.hub.put("ann", "big", phase=Phase.QUEUED, job_id=JobId("4712"), report=PENDING)
    site.hub.put("ann", "old", **FAILED)
    site.hub.put("bob", "theirs", phase=Phase.READY)
    await ann.get("/hub/home")
    ann.has("Ready", "n017", "3h 20m", 'data-left="12000"', 'href="/user/ann/"', "/hub/stop/ann")
    ann.has("Queued", "not enough cores", "Resources", 'datetime="2026-03-01T09:50:00Z"', ">Cancel<")
    ann.has("Exit code 3.", "Details", "Start again", "/hub/spawn/ann/old?profile=lab")
    ann.has("<dt>Ready since</dt>", "<dt>In the queue since</dt>", "<dt>Ended</dt>")
    assert "Tinaroo" not in ann.text, "with one cluster its name says nothing"
    assert "theirs" not in ann.text


async def test_stopping_ones_own(site: Site, ann: Browser) -> None:
    site.hub.put("ann", "big", phase=Phase.READY)
    await ann.get("/hub/home")
    answer = await ann.post("/hub/stop/ann/big")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/home")
    assert site.hub.calls == [("stop", "ann", "big", "ann")]


async def test_nobody_elses(site: Site, ann: Browser) -> None:
    site.hub.put("bob", phase=Phase.READY)
    await ann.get("/hub/home")
    assert (await ann.post("/hub/stop/bob")).code == 403
    assert (await ann.post("/hub/spawn/bob", **GOOD)).code == 403
    for path in ("/hub/spawn/bob", "/hub/spawn-pending/bob", "/hub/spawn-pending/nobody"):
        assert (await ann.get(path)).code == 403
        ann.has("belongs to somebody else")
    assert not site.hub.calls


async def test_a_named_server_gets_its_own_form(ann: Browser) -> None:
    answer = await ann.get("/hub/home?name=big.one&profile=lab")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/spawn/ann/big.one?profile=lab")
    assert (await ann.get("/hub/home?name=-x%22%3E")).code == 400
    ann.has('id="name-error"', "are allowed", 'aria-invalid="true"', 'value="-x">"')
    assert (await ann.get("/hub/home?name=")).code == 400
    ann.has("The server needs a name.")


async def test_several_profiles_are_chosen_first(ann: Browser) -> None:
    answer = await ann.get("/hub/spawn")
    assert answer.headers["Location"] == "/hub/spawn/ann"
    await ann.get("/hub/spawn/ann")
    ann.has("What shall your server run?", "/hub/spawn/ann?profile=lab", "/hub/spawn/ann?profile=rstudio")


async def test_cards_name_the_cluster_where_there_is_more_than_one(site: Site, ann: Browser) -> None:
    for path in ("/hub/home", "/hub/spawn/ann"):
        await ann.get(path)
        assert "Tinaroo" not in ann.text
    site.hub.offered = [LAB, replace(STUDIO, cluster="bunya")]
    for path in ("/hub/home", "/hub/spawn/ann"):
        await ann.get(path)
        ann.has("Tinaroo", "Bunya")


async def test_a_restart_goes_to_the_form_of_what_it_was(site: Site, ann: Browser) -> None:
    site.hub.put("ann", "old", profile="rstudio", **FAILED)
    await ann.get("/hub/spawn/ann/old")
    ann.has("Start RStudio as “old”", "Choose something else")
    await ann.get("/hub/spawn/ann/old?choose=1")
    ann.has("What shall “old” run?")
    site.hub.offered = [LAB, replace(LAB, name="other")]
    await ann.get("/hub/spawn/ann/old")
    ann.has("What shall “old” run?")


async def test_a_single_profile_is_not(site: Site, ann: Browser) -> None:
    site.hub.offered = [STUDIO]
    await ann.get("/hub/spawn/ann")
    ann.has("Start RStudio", "There is nothing to choose.")
    site.hub.offered = []
    await ann.get("/hub/spawn/ann")
    ann.has("No profile is set up yet.")


def field(text: str, name: str) -> str:
    """The input or select of a field."""
    return unescape(re.search(rf'<(?:input|select)[^>]*id="field-{name}"[^>]*>', text)[0])


async def test_the_form_shows_fields_help_limits_and_defaults(ann: Browser) -> None:
    await ann.get("/hub/spawn/ann?profile=lab")
    ann.has(
        "Partition", "short (up to 4h)", "Processor cores on one node.", "From 1 to 64.", "At most 2d.", "At most 256G."
    )
    assert 'value="8G"' in field(ann.text, "memory")
    assert 'value="8h"' in field(ann.text, "walltime")
    assert 'inputmode="numeric"' in field(ann.text, "cores")
    assert 'aria-describedby="field-cores-help field-cores-hint"' in field(ann.text, "cores")
    ann.has('<option value="short" selected>', "Tinaroo", "Limits as the cluster told them")


async def test_the_address_and_the_last_use_fill_it_in(site: Site, ann: Browser) -> None:
    site.hub.put("ann", options={"cores": 8, "memory": 512, "exclusive": True, "partition": "closed"}, **FAILED)
    await ann.get("/hub/spawn/ann?profile=lab&walltime=90m&account=%22%3E%3Cscript%3E")
    assert 'value="8"' in field(ann.text, "cores")
    assert 'value="512M"' in field(ann.text, "memory")
    assert 'value="90m"' in field(ann.text, "walltime")
    assert "checked" in field(ann.text, "exclusive")
    ann.has('<option value="short" selected>')
    assert "&#34;&gt;&lt;script&gt;" in ann.text
    assert not site.hub.calls


async def test_all_errors_are_at_their_fields(site: Site, ann: Browser) -> None:
    await ann.get("/hub/spawn/ann?profile=lab")
    wrong = {**GOOD, "cores": "65", "memory": "lots", "walltime": "1h", "account": "a;b", "partition": "nope"}
    answer = await ann.post("/hub/spawn/ann", **wrong)
    assert answer.code == 400
    ann.has("4 answers do not fit", 'id="problems" role="alert" tabindex="-1"')
    for name, words in {
        "cores": "At most 64",
        "memory": "'lots'",
        "account": "'a;b'",
        "partition": "not offered",
    }.items():
        ann.has(f'<a href="#field-{name}">', f'id="field-{name}-error"')
        assert 'aria-invalid="true"' in field(ann.text, name)
        assert f"field-{name}-error" in field(ann.text, name)
        ann.has(words)
    assert 'value="65"' in field(ann.text, "cores")
    assert "aria-invalid" not in field(ann.text, "walltime")


async def test_a_partitions_limit_is_at_its_field(ann: Browser) -> None:
    await ann.get("/hub/spawn/ann?profile=lab")
    await ann.post("/hub/spawn/ann", **{**GOOD, "walltime": "9h"})
    ann.has("One answer does not fit", "Partition short allows at most 4h.")


async def test_the_schedulers_own_words_stand_on_the_form(site: Site, ann: Browser) -> None:
    site.hub.refuse = SubmitRejected("sbatch: error: Batch job submission failed: <Invalid account>")
    await ann.get("/hub/spawn/ann?profile=lab")
    answer = await ann.post("/hub/spawn/ann", **{**GOOD, "account": "phys"})
    assert answer.code == 400
    ann.has("The scheduler refused the job", "submission failed: <Invalid account>", 'value="phys"')
    assert "<Invalid" not in ann.text


@pytest.mark.parametrize(("error", "code"), [(TooMany("Three at most."), 429), (Unreachable("No answer."), 503)])
async def test_other_refusals_keep_the_form(site: Site, ann: Browser, error: Exception, code: int) -> None:
    site.hub.refuse = error  # type: ignore[assignment]
    await ann.get("/hub/spawn/ann?profile=lab")
    answer = await ann.post("/hub/spawn/ann", **{**GOOD, "cores": "7"})
    assert answer.code == code
    assert answer.headers["Retry-After"] == "5"
    ann.has("It was not started", str(error), 'value="7"')


async def test_trouble_with_the_cluster_is_a_note(site: Site, ann: Browser) -> None:
    site.hub.trouble = "The cluster did not answer; the limits are old."
    await ann.get("/hub/spawn/ann?profile=lab")
    ann.has("the limits are old")


async def test_what_is_typed_reaches_the_hub_and_leads_to_the_waiting_page(site: Site, ann: Browser) -> None:
    await ann.get("/hub/spawn/ann/big?profile=lab")
    answer = await ann.post("/hub/spawn/ann/big", **GOOD, exclusive="on")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/spawn-pending/ann/big")
    (_, user, name, profile, raw) = site.hub.calls[0]
    assert (user, name, profile) == ("ann", "big", "lab")
    assert raw["walltime"] == ["2h"]
    assert not {"_xsrf", "profile"} & raw.keys()


async def test_what_runs_is_not_started_twice(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.QUEUED)
    assert (await ann.get("/hub/spawn/ann")).headers["Location"] == "/hub/spawn-pending/ann"
    await ann.get("/hub/home")
    assert (await ann.post("/hub/spawn/ann", **GOOD)).headers["Location"] == "/hub/spawn-pending/ann"
    site.hub.move("ann", phase=Phase.READY)
    assert (await ann.get("/hub/spawn/ann")).headers["Location"] == "/user/ann/"


async def test_the_waiting_page_works_without_scripts(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.QUEUED, job_id=JobId("4711"), report=PENDING)
    site.hub.silent = START
    answer = await ann.get("/hub/spawn-pending/ann")
    assert answer.code == 200
    ann.has(
        "Queued",
        "The job waits",
        "Resources",
        "2026-03-01 09:50 UTC",
        'http-equiv="refresh"',
        "does not answer at the moment",
    )
    ann.has('aria-live="polite"', 'data-events="/hub/api/users/ann/server/progress"', 'aria-current="step">Queued')
    site.hub.move("ann", phase=Phase.READY)
    assert (await ann.get("/hub/spawn-pending/ann")).headers["Location"] == "/user/ann/"


async def test_a_failure_tells_outcome_words_code_and_log(site: Site, ann: Browser) -> None:
    site.hub.put("ann", options={"cores": 4, "walltime": 7200}, words="oom", log_tail="line <1>\nkilled", **FAILED)
    answer = await ann.get("/hub/spawn-pending/ann")
    assert answer.code == 200
    ann.has("JupyterLab did not start", "Exit code 3.", "oom", "line <1>\nkilled", "Start again")
    assert "line <1>" not in ann.text
    ann.has('name="cores" value="4"', 'name="walltime" value="2h"', 'name="memory" value=""')
    assert "pending.js" not in ann.text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', ann.text.split("data-once")[1]))
    site.hub.offered = [LAB]
    fields |= {"partition": "short", "environment": "2026.1"}
    assert (await ann.post("/hub/spawn/ann", **fields)).code == 303
    # On a node, but nothing of it was ever seen: it did not start; one that was in use has ended.
    for answered, verb in ((None, "did not start"), (START, "has ended")):
        site.hub.put("ann", started=START, host="n1", answered=answered, **FAILED)
        await ann.get("/hub/spawn-pending/ann")
        ann.has(f"JupyterLab {verb}")


async def test_limits_and_last_use_are_told(site: Site, ann: Browser) -> None:
    site.hub.offered = [replace(LAB, idle_timeout=7200.0)]
    sentence = "The hub ends it after 2h without use."
    await ann.get("/hub/spawn/ann")
    ann.has(sentence)
    site.hub.put("ann", phase=Phase.READY, active=START)
    await ann.get("/hub/home")
    ann.has("Last used", sentence)
    site.hub.offered = [LAB]
    await ann.get("/hub/home")
    assert sentence not in ann.text


async def test_a_calm_end_is_no_alarm(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.ENDED, want=Want.DOWN, outcome=Outcome.STOPPED, started=START)
    await ann.get("/hub/spawn-pending/ann")
    ann.has("JupyterLab has ended", "Stopped as asked.")
    assert 'role="alert"' not in ann.text
    site.hub.offered = []
    await ann.get("/hub/spawn-pending/ann")
    ann.has("lab has ended")
    assert "Start again" not in ann.text


async def test_a_server_that_never_was(ann: Browser) -> None:
    assert (await ann.get("/hub/spawn-pending/ann/nix")).code == 404
    assert (await ann.get("/hub/nothing")).code == 404
    ann.has("There is nothing at this address.", "Back to your servers")


async def test_names_are_escaped_in_addresses(site: Site) -> None:
    browser = await site.signed_in("ann+x@site.org")
    site.hub.put("ann+x@site.org", phase=Phase.READY)
    await browser.get("/hub/home")
    browser.has('href="/user/ann%2Bx@site.org/"')
    assert (await browser.get("/hub/spawn-pending/ann%2Bx%40site.org")).code == 302


async def test_the_admin_list_is_for_admins(site: Site, ann: Browser) -> None:
    await ann.get("/hub/home")
    assert "/hub/admin" not in ann.text
    assert (await ann.get("/hub/admin")).code == 403


async def test_admins_see_page_filter_and_stop(site: Site) -> None:
    root = await site.signed_in("root")
    for number in range(60):
        site.hub.put(f"user{number:02}", phase=Phase.READY, host=f"n{number}", job_id=JobId(str(9000 + number)))
    site.hub.put("gone", **FAILED)
    await root.get("/hub/admin")
    root.has("1–50 of 60", "user00", "n49", "9001", "/hub/admin?offset=50", "Next page")
    assert "user55" not in root.text
    assert "gone" not in root.text
    await root.get("/hub/admin?offset=50")
    root.has("user55", "51–60 of 60", "Previous page")
    await root.get("/hub/admin?q=USER3")
    root.has("1–10 of 10", "user31")
    assert "user01" not in root.text
    await root.get("/hub/admin?all=1&q=failed")
    root.has("gone")
    await root.get("/hub/admin?q=nobody&offset=x")
    root.has("No server fits.")
    answer = await root.post("/hub/stop/user07", next="/hub/admin?q=x")
    assert answer.headers["Location"] == "/hub/admin?q=x"
    assert site.hub.calls == [("stop", "user07", "", "root")]


async def test_admins_see_the_jobs_that_no_server_knows(site: Site) -> None:
    root = await site.signed_in("root")
    await root.get("/hub/admin")
    assert "Jobs that no server knows" not in root.text
    job = JobReport(JobId("77"), JobState.RUNNING, user="mallory", name="bh-<script>")
    site.hub.orphans.append(Orphan("hpc", job, Deed.LIST, "Nothing proves that it is this hub's."))
    await root.get("/hub/admin")
    root.has("Jobs that no server knows", "77", "mallory", "listed", "Nothing proves that it is this hub's.")
    assert "bh-&lt;script&gt;" in root.text


async def test_tokens_are_shown_once_and_revoked(site: Site, ann: Browser) -> None:
    await ann.get("/hub/token")
    ann.has("You have none.")
    assert (await ann.post("/hub/token", note="ci <b>", days="7")).code == 200
    token = re.search(r'id="fresh-token">(bh_[^<]+)<', ann.text)[1]
    await ann.get("/hub/token")
    assert token not in ann.text
    ann.has("ci <b>", "never", 'datetime="2026-03-08T09:30:00Z"')
    answer = await site.browser().get("/hub/api/user", Authorization=f"token {token}")
    assert answer.code == 200
    bob = await site.signed_in("bob")
    await bob.get("/hub/token")
    assert (await bob.post("/hub/token", revoke="1")).code == 404
    assert (await ann.post("/hub/token", revoke="1")).code == 303
    assert (await site.browser().get("/hub/api/user", Authorization=f"token {token}")).code == 403


@pytest.mark.parametrize(
    "fields", [{"note": "", "days": "7"}, {"note": "x" * 101, "days": "7"}, {"note": "x", "days": "9999"}]
)
async def test_a_token_without_sense_is_refused(site: Site, ann: Browser, fields: dict[str, str]) -> None:
    await ann.get("/hub/token")
    assert (await ann.post("/hub/token", **fields)).code == 400
    ann.has('role="alert"')
    assert not site.store.access


async def test_base_url_announcement_and_docs() -> None:
    site = open_site(
        WebSettings(base_url="/jupyter/", announcement="Maintenance on <Friday>.", docs="https://docs.example/")
    )
    ann = await site.signed_in()
    answer = await ann.get("/jupyter/hub/home")
    assert answer.code == 200
    ann.has("Maintenance on <Friday>.", "https://docs.example/", 'href="/jupyter/hub/spawn/ann?profile=lab"')
    assert "<Friday>" not in ann.text
    assert ' href="/hub' not in ann.text
    for path in re.findall(r'(?:src|href)="(/jupyter/hub/static/[^"]+)"', ann.text):
        assert (await ann.get(unescape(path))).code == 200
    site.hub.clock.now += timedelta(days=1)
    site.server.stop()


async def test_static_files_and_logo(ann: Browser) -> None:
    assert (await ann.get("/hub/static/live.js")).headers["Cache-Control"] == "no-cache"
    assert (await ann.get("/hub/logo")).headers["Content-Type"] == "image/svg+xml"
    assert (await ann.get("/hub/static/nix.js")).code == 404
    assert (await ann.get("/hub/static/..%2fapp.py")).code in {403, 404}


async def test_stopping_is_no_start(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.STOPPING, want=Want.DOWN)
    await ann.get("/hub/spawn-pending/ann")
    ann.has("Stopping JupyterLab", "being cancelled")
    assert 'class="steps"' not in ann.text
    assert "Cancel</button>" not in ann.text


async def test_a_database_that_is_away_is_a_page_of_its_own(site: Site, ann: Browser) -> None:
    async def away(name: str) -> None:
        raise StoreUnavailable("The database does not answer.")

    site.store.user = away  # type: ignore[assignment]
    answer = await ann.get("/hub/home")
    assert (answer.code, answer.headers["Retry-After"]) == (503, "5")
    ann.has("The database does not answer.", "Not available at the moment")
