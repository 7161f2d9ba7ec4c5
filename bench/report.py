"""From what was measured to what is said: medians, ratios, notes, and the tables of docs/performance.md. Pure, but for the program.

``python bench/report.py FILE.json …`` prints the tables of one or more results; ``--into FILE.md`` puts them between the two marks there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

Raw = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
Figures = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Section -> peer -> measure -> median, min, max."""


# ---------------------------------------------------------------- ratios


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure divided by another of the same section. ``at_least`` or ``at_most`` is what we want to hold."""

    key: str
    section: str
    measure: str
    peer: str
    other: str
    at_least: float | None = None
    at_most: float | None = None
    other_measure: str = ""

    def held(self, value: float) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        return None

    @property
    def goal(self) -> str:
        """In words."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"


RATIOS = (
    Ratio("requests_vs_chp", "requests", "rate", "ours", "chp", at_least=2),
    Ratio("requests_checked_vs_chp", "requests", "rate", "ours_checked", "chp"),
    Ratio("requests_cpu_vs_chp", "requests", "cpu_us", "ours", "chp"),
    Ratio("p99_vs_chp", "requests", "p99_ms", "ours", "chp", at_most=1),
    Ratio("requests_vs_nginx", "requests", "rate", "ours", "nginx"),
    Ratio("requests_vs_haproxy", "requests", "rate", "ours", "haproxy"),
    Ratio("websocket_vs_chp", "websocket", "rate", "ours", "chp", at_least=2),
    Ratio("websocket_cpu_vs_chp", "websocket", "cpu_us", "ours", "chp"),
    Ratio("websocket_vs_nginx", "websocket", "rate", "ours", "nginx"),
    Ratio("websocket_vs_haproxy", "websocket", "rate", "ours", "haproxy"),
    Ratio("download_vs_chp", "download", "rate", "ours", "chp", at_least=1),
    Ratio("download_vs_nginx", "download", "rate", "ours", "nginx"),
    Ratio("upload_vs_chp", "upload", "rate", "ours", "chp"),
    Ratio("upload_chunked_vs_chp", "upload_chunked", "rate", "ours", "chp"),
    Ratio("idle_websocket_memory_vs_chp", "idle", "kib", "ours", "chp", at_most=1),
    Ratio("idle_websocket_memory_vs_nginx", "idle", "kib", "ours", "nginx"),
    Ratio("route_adds_vs_chp", "route_adds", "rate", "ours", "chp"),
    Ratio("lookup_10000_vs_1", "lookups", "rate_10000", "ours", "ours", other_measure="rate_1"),
    Ratio("lookup_10000_vs_chp", "lookups", "rate_10000", "ours", "chp"),
    Ratio("tunnel_requests_vs_chp", "tunnel_requests", "rate", "ours", "chp", at_least=1),
    Ratio("tunnel_p99_vs_chp", "tunnel_requests", "p99_ms", "ours", "chp"),
    Ratio("tunnel_requests_vs_ssh", "tunnel_requests", "rate", "ours", "ssh"),
    Ratio("tunnel_requests_vs_ssh_chp", "tunnel_requests", "rate", "ours", "chp_ssh"),
    Ratio("tunnel_websocket_vs_chp", "tunnel_websocket", "rate", "ours", "chp"),
    Ratio("tunnel_websocket_vs_ssh_chp", "tunnel_websocket", "rate", "ours", "chp_ssh"),
    Ratio("tunnel_download_vs_ssh", "tunnel_download", "rate", "ours", "ssh", at_least=0.8),
    Ratio("tunnel_download_vs_ssh_same_cipher", "tunnel_download", "rate", "ours", "ssh_gcm"),
    Ratio("tunnel_upload_vs_ssh", "tunnel_upload", "rate", "ours", "ssh"),
    Ratio("tunnel_upload_chunked_vs_ssh", "tunnel_upload_chunked", "rate", "ours", "ssh"),
)


def summed(raw: Raw) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Median and spread over the rounds."""
    return {
        section: {
            peer: {
                measure: {"median": tidy(statistics.median(seen)), "min": tidy(min(seen)), "max": tidy(max(seen))}
                for measure, seen in measures.items()
            }
            for peer, measures in peers.items()
        }
        for section, peers in raw.items()
    }


def tidy(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")


def ratios(figures: Figures) -> dict[str, float]:
    """Those whose two figures are there, of medians."""
    found = {}
    for ratio in RATIOS:
        peers = figures.get(ratio.section, {})
        above = peers.get(ratio.peer, {}).get(ratio.measure)
        below = peers.get(ratio.other, {}).get(ratio.other_measure or ratio.measure)
        if above is not None and below is not None and below["median"]:
            found[ratio.key] = round(above["median"] / below["median"], 3)
    return found


def result(raw: Raw, conditions: Mapping[str, Any], skipped: Sequence[str], said: Sequence[str] = ()) -> dict[str, Any]:
    """The whole report: what ``--json`` prints."""
    figures = summed(raw)
    found = ratios(figures)
    return {
        **found,
        "skipped": list(skipped),
        "notes": [*said, *notes(figures)],
        "missed": missed(found),
        "figures": figures,
        "conditions": dict(conditions),
    }


def missed(found: Mapping[str, float]) -> list[str]:
    """Goals that are not held, as sentences."""
    return [
        f"{ratio.key} is {found[ratio.key]:g}, wanted {ratio.goal}"
        for ratio in RATIOS
        if ratio.key in found and ratio.held(found[ratio.key]) is False
    ]


# ---------------------------------------------------------------- notes


def notes(figures: Figures) -> list[str]:
    """What a reader must know of the figures before believing them. On a busy machine nobody can say what the limit was."""
    noise = _noise(figures)
    return noise or [*_limits(figures), *_ceilings(figures)]


def _limits(figures: Figures) -> list[str]:
    """Where a proxy had time left: the rate is then the load's, and only the processor time for each unit compares."""
    found = []
    for section, peers in figures.items():
        idle = [
            f"{PEERS.get(peer, peer)} {100 * measures['core_used']['median']:.0f} %"
            for peer, measures in peers.items()
            if "core_used" in measures and measures["core_used"]["median"] < 0.85
        ]
        if idle:
            found.append(
                f"{section}: the load's core was the limit, not the proxy's, of which was used: {', '.join(idle)}. "
                "There processor time compares better than rates."
            )
    return found


def _ceilings(figures: Figures) -> list[str]:
    found = []
    for section, peers in figures.items():
        direct, ours = (peers.get(name, {}).get("rate") for name in ("direct", "ours"))
        if direct and ours and direct["median"] < 3 * ours["median"]:
            times = direct["median"] / ours["median"]
            found.append(
                f"{section}: without any proxy the load reaches only {times:.1f} times our rate; a faster proxy cannot show all of its speed."
            )
    return found


def _noise(figures: Figures) -> list[str]:
    seen = [
        measures["other_work"]["max"]
        for peers in figures.values()
        for measures in peers.values()
        if "other_work" in measures
    ]
    if not seen or max(seen) < 0.1:
        return []
    busy = f"up to {max(seen):.1f} cores busy, {statistics.mean(seen):.1f} on average"
    return [f"The machine was not quiet: other work kept {busy}. Do not trust rates; processor time is roughly right."]


# ---------------------------------------------------------------- words and tables

TITLES = {
    "requests": "Small requests over 32 connections",
    "websocket": "WebSocket messages of 100 bytes, echoed over 32 connections",
    "download": "Download of 256 MiB",
    "upload": "Upload of 256 MiB with a Content-Length",
    "upload_chunked": "Upload of 256 MiB in chunks",
    "idle": "Memory for each idle WebSocket",
    "route_adds": "Adding 10,000 routes, 10 at a time",
    "lookups": "Small requests spread over many routes",
    "tunnel_requests": "Small requests through SSH",
    "tunnel_websocket": "WebSocket messages through SSH",
    "tunnel_download": "Download of 256 MiB through SSH",
    "tunnel_upload": "Upload of 256 MiB through SSH, with a Content-Length",
    "tunnel_upload_chunked": "Upload of 256 MiB through SSH, in chunks",
}
PEERS = {
    "ours": "BatchHub",
    "ours_checked": "BatchHub, ticket checked",
    "chp": "CHP",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "ssh": "`ssh -L` alone",
    "ssh_gcm": "`ssh -L` alone, our cipher",
    "chp_ssh": "CHP and `ssh -L`",
    "direct": "no proxy (ceiling)",
}
MEASURES = {
    "rate": "per second",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "cpu_us": "CPU each, µs",
    "core_used": "of its core",
    "kib": "KiB each",
    "rate_1": "per second, 1 route",
    "rate_10000": "per second, 10,000 routes",
}


def _columns(section: str, peers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    there = [name for name in MEASURES if any(name in measures for measures in peers.values())]
    moved = {"rate": "MB/s", "cpu_us": "CPU for each MB, µs"} if "load" in section else {}
    return {name: moved.get(name, MEASURES[name]) for name in there}


def shown(name: str, value: Mapping[str, float] | None) -> str:
    """A median for people, with its spread where it is more than 5 %."""
    if value is None:
        return "–"
    middle = value["median"]
    if name == "core_used":
        return f"{100 * middle:.0f} %"
    text = f"{middle:,.0f}" if abs(middle) >= 100 else f"{middle:.3g}"
    if middle and (value["max"] - value["min"]) / abs(middle) > 0.05:
        low, high = (f"{value[end]:,.0f}" if abs(middle) >= 100 else f"{value[end]:.3g}" for end in ("min", "max"))
        text += f" ({low} to {high})"
    return text


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Every table, and the conditions below them."""
    lines = ["| ratio | measured | wanted | |", "| --- | ---: | ---: | --- |"]
    for ratio in RATIOS:
        for found in results:
            if ratio.key in found:
                verdict = {True: "held", False: "**not held**", None: ""}[ratio.held(found[ratio.key])]
                lines.append(f"| `{ratio.key}` | {found[ratio.key]:.2f} | {ratio.goal} | {verdict} |")
    for found in results:
        for section, peers in found["figures"].items():
            columns = _columns(section, peers)
            lines += ["", f"**{TITLES.get(section, section)}**", "", f"| | {' | '.join(columns.values())} |"]
            lines.append("| --- |" + " ---: |" * len(columns))
            for peer, measures in peers.items():
                cells = [shown(name, measures.get(name)) for name in columns]
                lines.append(f"| {PEERS.get(peer, peer)} | {' | '.join(cells)} |")
        lines += ["", "Conditions:", ""]
        lines += [f"* {name.replace('_', ' ')}: {_flat(value)}" for name, value in found["conditions"].items()]
        lines += [f"* {sentence}" for sentence in found["notes"]]
        lines += [f"* skipped: {sentence}" for sentence in found["skipped"]]
    return "\n".join(lines) + "\n"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {word}" for name, word in value.items() if word)
    return str(value)


def text(found: Mapping[str, Any]) -> str:
    """For the terminal."""
    lines = []
    for section, peers in found["figures"].items():
        columns = _columns(section, peers)
        rows = [["", *columns.values()]]
        rows += [
            [PEERS.get(peer, peer), *(shown(name, measures.get(name)) for name in columns)]
            for peer, measures in peers.items()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += [TITLES.get(section, section), *(_row(row, widths) for row in rows), ""]
    for ratio in RATIOS:
        if ratio.key in found:
            verdict = {True: "held", False: "NOT HELD", None: ""}[ratio.held(found[ratio.key])]
            lines.append(f"  {ratio.key:32} {found[ratio.key]:8.2f}  {ratio.goal:6} {verdict}".rstrip())
    lines += [f"Note: {sentence}" for sentence in found["notes"]]
    lines += [f"Skipped: {sentence}" for sentence in found["skipped"]]
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  " + "   ".join([first, *others]).rstrip()


def inserted(document: str, tables: str) -> str:
    """The document with the tables between its two marks. Raises ValueError without them."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN} and {END} are not there.")
    return f"{head}{BEGIN}\n{tables}{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables from the results of proxy.py --json and tunnel.py --json.")
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="replace what is between the marks there")
    asked = parser.parse_args()
    tables = markdown([json.loads(file.read_text()) for file in asked.results])
    if asked.into is None:
        sys.stdout.write(tables)
    else:
        asked.into.write_text(inserted(asked.into.read_text(), tables))


if __name__ == "__main__":
    main()
