"""The report as files: summary.json, a self-contained HTML page, JUnit XML for CI, and the run's
seconds as CSV.
"""

from __future__ import annotations

import csv
import json
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from resources.text import visible

from .compare import Difference, compare
from .hdr import write_histograms
from .measures import Measures
from .plot import Line, plot

Row = dict[str, Any]

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;
color:#1d2430;background:#fff}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em;border-bottom:1px solid #d5dae3}
table{border-collapse:collapse}td,th{padding:.2em 1em .2em 0;text-align:right;
font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#5a6577}
.passed,.ok{color:#0a7a3d}.missed,.void,.bad{color:#b3261e}.note{color:#5a6577}
svg{width:100%;height:auto}
@media(prefers-color-scheme:dark){body{color:#dfe4ec;background:#14181f}h2{border-color:#333b49}
th,.note{color:#98a3b5}.passed,.ok{color:#5fd08d}.missed,.void,.bad{color:#ff8a80}}
"""
TIMELINE = ("at", "target", "offered", "completed", "replies", "errors", "p50", "p99")
TIMES = ("p50", "p90", "p95", "p99", "p999", "p9999", "max", "mean")


def write(folder: Path, summary: Row, baseline: Row | None, measures: Measures) -> None:
    """Write all of them, and the latencies as HDR histograms in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(
        json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    (folder / "report.html").write_text(page(summary, baseline), "utf-8")
    (folder / "junit.xml").write_bytes(junit(summary))
    with (folder / "timeline.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, TIMELINE)
        rows.writeheader()
        rows.writerows(summary["timeline"])
    write_histograms(folder / "hdr", measures, datetime.fromisoformat(summary["began"]))


def page(summary: Row, baseline: Row | None) -> str:
    """The report as one HTML page."""
    name = Path(summary["campaign"]).name
    parts = [
        f"<h1>{escape(name)}: <span class={summary['verdict']}>{summary['verdict']}</span></h1>",
        _when(summary),
        *[f"<p>{escape(line)}</p>" for line in summary["advice"]],
        _section("Thresholds", _thresholds(summary)),
        _section("Latencies", _latencies(summary)),
        _section("Over time", _plots(summary)),
        _section("Conversations", _dialogues(summary)),
        _section("What went wrong", _counts(summary["errors"], "nothing")),
        _examples(summary),
        _section("Where the time of a run went", _phases(summary)),
        _section("The generator", _generator(summary)),
    ]
    if summary["notes"]:
        parts.append(
            _section(
                "Events", _counts({f"{n['at']:.1f} s": n["text"] for n in summary["notes"]}, "none")
            )
        )
    if baseline is not None:
        parts.append(_section("Against the baseline", _differences(compare(baseline, summary))))
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>{escape(name)}</title><style>{STYLE}</style>{body}</html>\n"
    )


def _when(summary: Row) -> str:
    stopped = ", stopped before its end" if summary["stopped"] else ""
    warmup = f"{summary['seconds']:.0f} s of which {summary['warmup']:.0f} warm-up"
    version = escape(str(summary["host"].get("jsbox", "")))
    return (
        f"<p class=note>{escape(summary['began'])}, {warmup}, seed {summary['seed']}{stopped};"
        f" jsbox {version}</p>"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _thresholds(summary: Row) -> str:
    rows = [
        [
            f"<span class={'ok' if one['ok'] else 'bad'}>{escape(one['name'])}</span>",
            escape(one["limit"]),
            escape(one["got"]),
            "" if one["margin"] is None else f"{one['margin']:+.0%}",
            "" if one["first_breach"] is None else f"{one['first_breach']:.0f} s",
        ]
        for one in summary["thresholds"]
    ]
    return _table(["measure", "limit", "found", "margin", "first breach"], rows)


def ms(seconds: float | None) -> str:
    """Show seconds in a table: below 1 s as milliseconds."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _latencies(summary: Row) -> str:
    kinds = {
        "reply (from when it was due)": "reply",
        "service (from when it was sent)": "service",
        "whole conversation": "conversation",
    }
    found = {
        "reply": summary["replies"],
        "service": summary["service"],
        "conversation": summary["conversations"],
    }
    rows = [
        [label, str(found[key]["count"]), *(ms(found[key][name]) for name in TIMES)]
        for label, key in kinds.items()
    ]
    return _table(["", "count", *TIMES], rows)


def _plots(summary: Row) -> str:
    timeline = summary["timeline"]
    at = [one["at"] for one in timeline]
    rates = [
        Line("asked for", "#98a3b5", [o["target"] for o in timeline]),
        Line("begun", "#3b78e7", [o["offered"] for o in timeline]),
        Line("completed", "#0a7a3d", [o["completed"] for o in timeline]),
        Line("errors", "#b3261e", [o["errors"] for o in timeline]),
    ]
    times = [
        Line("p50", "#3b78e7", [_in_ms(o["p50"]) for o in timeline]),
        Line("p99", "#b3261e", [_in_ms(o["p99"]) for o in timeline]),
    ]
    return plot("sessions a second", at, rates) + plot("reply, ms", at, times)


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _dialogues(summary: Row) -> str:
    rows = [
        [
            escape(name),
            str(one["started"]),
            str(one["completed"]),
            "" if one["completed_share"] is None else f"{one['completed_share']:.1%}",
            str(one["gave_up"]),
            str(one["failed"]),
            str(one["unfinished"]),
            escape(visible(", ".join(f"{at}: {n}" for at, n in one["stopped_at_step"].items()))),
        ]
        for name, one in summary["dialogues"].items()
    ]
    head = (
        "dialogue",
        "begun",
        "completed",
        "of those that stayed",
        "hung up",
        "failed",
        "unfinished",
        "stopped at step",
    )
    return _table([*head], rows) + _branches(summary)


def _branches(summary: Row) -> str:
    rows = [
        [*map(escape, (name, visible(one["step"]), visible(one["name"]))), str(one["taken"])]
        for name, dialogue in summary["dialogues"].items()
        for one in dialogue["branches"]
    ]
    return _table(["dialogue", "step", "branch", "taken"], rows) if rows else ""


def _counts(counts: Row, none: str) -> str:
    if not counts:
        return f"<p class=note>{none}</p>"
    return _table(
        ["", ""], [[escape(str(name)), escape(str(value))] for name, value in counts.items()]
    )


def _examples(summary: Row) -> str:
    rows = [
        [
            escape(reason),
            escape(f"{one['dialogue']}, step {one['step']}"),
            f"{one['at']:.1f} s",
            escape(visible(one["user"])),
            escape(visible(one["expected"], keep="\n")),
            "nothing" if one["got"] is None else escape(visible(one["got"], keep="\n")),
        ]
        for reason, examples in summary.get("examples", {}).items()
        for one in examples
    ]
    head = ["", "where", "at", "user", "expected", "received"]
    return _table(head, rows) if rows else ""


def _phases(summary: Row) -> str:
    server = summary["server"]
    if not server.get("phases"):
        return "<p class=note>not known: no admin port was given</p>"
    total = sum(server["phases"].values())
    rows = [
        [name, ms(seconds), f"{seconds / total:.0%}"] for name, seconds in server["phases"].items()
    ]
    largest = f"{server['rss_max'] / (1 << 20):.0f} MiB"
    note = f"{server['starts']} processes started; the largest had {largest}"
    return _table(["", "of a run, on average", ""], rows) + f"<p class=note>{note}</p>"


def _generator(summary: Row) -> str:
    one = summary["generator"]
    late = one["late"]
    text = (
        f"{one['cpu']:.0%} of a core;"
        f" late by {ms(late['p50'])} (p50), {ms(late['p99'])} (p99), {ms(late['max'])} (max);"
        f" {one['reconnects']} reconnects, {one['redelivered']} replies delivered again"
    )
    return f"<p>{escape(text)}</p>"


def _differences(found: list[Difference]) -> str:
    rows = [
        [
            escape(one.name),
            escape(one.before),
            escape(one.after),
            f"<span class={'bad' if one.is_worse else ''}>{one.change}</span>",
        ]
        for one in found
    ]
    return _table(["", "baseline", "this run", ""], rows)


def junit(summary: Row) -> bytes:
    """The thresholds as JUnit XML, one test case each."""
    judged = summary["thresholds"]
    failures = sum(not one["ok"] for one in judged)
    suite = ET.Element(
        "testsuite",
        name="jsbox load",
        tests=str(len(judged)),
        failures=str(failures),
        errors="0",
        time=f"{summary['seconds']:.3f}",
    )
    for one in judged:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=Path(summary["campaign"]).stem,
            name=f"{one['name']} {one['limit']}",
        )
        if not one["ok"]:
            message = f"found {one['got']}" + (
                "" if one["first_breach"] is None else f", first at {one['first_breach']:.0f} s"
            )
            ET.SubElement(case, "failure", message=message)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
