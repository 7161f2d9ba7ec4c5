"""A hub that is killed over running servers, small: nothing is cut, submitted or cancelled, and everything is known again."""

from __future__ import annotations

from tests.bench.test_run import run


def test_a_killed_hub_comes_back_to_what_was() -> None:
    found = run("restart.py", "--servers=20", "--json")
    assert (found["servers"], found["websockets"], found["routes"]) == (20, 20, 20)
    assert (found["cut"], found["submits"], found["cancels"]) == (0, 0, 0)
    assert found["verified_ticks"] >= 1
    assert found["first_answer_s"] > 0
    assert found["goals"]["verified_ticks"] == 2
