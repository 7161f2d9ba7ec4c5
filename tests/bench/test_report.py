"""What the benchmarks make of figures; no figure is taken here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.load import whole
from bench.machine import Unfit
from bench.measure import read_wrk
from bench.report import BEGIN, END, RATIOS

ROOT = Path(__file__).parents[2]

KEYS = {
    "requests_vs_chp",
    "p99_vs_chp",
    "websocket_vs_chp",
    "download_vs_chp",
    "idle_websocket_memory_vs_chp",
    "requests_vs_nginx",
    "tunnel_requests_vs_chp",
    "tunnel_download_vs_ssh",
}


def raw(ours: float, chp: float) -> report.Raw:
    return {
        "requests": {
            "ours": {"rate": [ours, ours * 3, ours / 2], "p99_ms": [4.0], "core_used": [1.0]},
            "chp": {"rate": [chp], "p99_ms": [8.0], "core_used": [0.5]},
            "direct": {"rate": [ours * 2]},
        }
    }


def test_the_keys_that_others_read_are_there() -> None:
    assert {ratio.key for ratio in RATIOS} >= KEYS
    assert len({ratio.key for ratio in RATIOS}) == len(RATIOS)


def test_a_ratio_is_one_of_medians() -> None:
    found = report.result(raw(1000, 400), {"cores": 2}, ["nginx is not installed"])
    assert found["requests_vs_chp"] == 2.5
    assert found["p99_vs_chp"] == 0.5
    assert found["figures"]["requests"]["ours"]["rate"] == {"median": 1000, "min": 500, "max": 3000}
    assert found["missed"] == []
    assert found["skipped"] == ["nginx is not installed"]
    assert "requests_vs_nginx" not in found
    assert "websocket_vs_chp" not in found


def test_a_goal_that_is_not_held_is_named() -> None:
    found = report.result(raw(600, 400), {}, [])
    assert found["missed"] == ["requests_vs_chp is 1.5, wanted ≥ 2"]
    assert "NOT HELD" in report.text(found)
    assert "| `requests_vs_chp` | 1.50 | ≥ 2 | **not held** |" in report.markdown([found])


def test_a_ratio_of_two_measures_of_one_peer() -> None:
    figures = report.summed({"lookups": {"ours": {"rate_1": [100.0], "rate_10000": [90.0]}}})
    assert report.ratios(figures) == {"lookup_10000_vs_1": 0.9}


def test_limits_ceilings_and_noise_are_said() -> None:
    figures = report.summed(raw(1000, 400))
    limit, ceiling = report.notes(figures)
    assert "CHP 50 %" in limit
    assert "BatchHub" not in limit
    assert "2.0 times our rate" in ceiling
    noisy = report.summed({"requests": {"ours": {"other_work": [0.0, 0.7]}}})
    assert "up to 0.7 cores busy" in report.notes(noisy)[0]
    assert report.notes(report.summed({"requests": {"ours": {"other_work": [0.02]}}})) == []


def test_a_median_is_shown_with_its_spread_when_that_is_wide() -> None:
    assert report.shown("rate", {"median": 12345.0, "min": 12000.0, "max": 12400.0}) == "12,345"
    assert report.shown("rate", {"median": 1000.0, "min": 500.0, "max": 3000.0}) == "1,000 (500 to 3,000)"
    assert report.shown("core_used", {"median": 0.987, "min": 0.5, "max": 1.0}) == "99 %"
    assert report.shown("rate", None) == "–"


def test_tables_go_between_the_marks() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert report.inserted(document, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="not there"):
        report.inserted("no marks", "new\n")


def test_the_document_has_the_marks() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert report.inserted(text, "x\n").count("\nx\n") == 1


def test_the_program_fills_a_document(tmp_path: Path) -> None:
    results, document = tmp_path / "proxy.json", tmp_path / "performance.md"
    results.write_text(json.dumps(report.result(raw(1000, 400), {"versions": {"chp": "5.3"}}, [])))
    document.write_text(f"{BEGIN}\n{END}\n")
    argv = [sys.executable, ROOT / "bench" / "report.py", results, "--into", document]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert "| BatchHub | 1,000 (500 to 3,000) | 4 | 100 % |" in document.read_text()
    assert "* versions: chp 5.3" in document.read_text()


WRK = """\
Running 2s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.80ms  510.55us  12.30ms   93.05%
    Req/Sec    17.99k     1.13k   19.68k    75.00%
  Latency Distribution
     50%    1.69ms
     75%    1.92ms
     90%    2.14ms
     99%  980.00us
  36002 requests in 2.01s, 6.18MB read
Requests/sec:  17911.44
Transfer/sec:      3.07MB
"""


def test_wrk_is_read() -> None:
    assert read_wrk(WRK) == {"rate": 17911.44, "p50_ms": 1.69, "p99_ms": 0.98, "count": 36002, "took": 2.01}


@pytest.mark.parametrize(
    "words", ["Non-2xx or 3xx responses: 1", "Socket errors: connect 0, read 2, write 0, timeout 0"]
)
def test_a_rate_with_errors_is_none(words: str) -> None:
    with pytest.raises(Unfit, match="wrk saw errors"):
        read_wrk(WRK + words)
    with pytest.raises(Unfit, match="something else"):
        read_wrk("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(
    ("data", "ended"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 201 Cre", False),
    ],
)
def test_the_end_of_an_answer_is_seen(data: bytes, ended: bool) -> None:
    assert whole(data) is ended
