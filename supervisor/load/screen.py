"""What the user sees: a live screen on a terminal, else a line now and then; and the conclusion."""

from __future__ import annotations

from typing import Any

import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resources.text import visible

from .compare import Difference
from .measures import percentile
from .report import ms
from .run import Running
from .schedule import rate_at
from .thresholds import LATE

EXAMPLES_SHOWN = 2  # of each kind of error
REFRESH = 0.25  # seconds
LINES = 5.0  # seconds between two lines
NEWEST = 2000  # samples behind the live percentiles
SPARKS = "▁▂▃▄▅▆▇█"
LATE_BAD = 0.02  # seconds; if the generator is later, its figures cannot be trusted

Row = dict[str, Any]


async def show(running: Running, console: Console) -> None:
    """Show the run until cancelled."""
    if not console.is_terminal:
        while True:
            await trio.sleep(LINES)
            console.print(line(running), highlight=False, soft_wrap=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(screen(running), refresh=True)
            await trio.sleep(REFRESH)


def line(running: Running) -> str:
    """The state of the run in one line."""
    measures, now = running.measures, running.now
    newest, late = measures.service.newest(NEWEST), measures.late.newest(NEWEST)
    replies = _rate(running, "replies")
    errors = " ".join(f"{name}={count}" for name, count in measures.errors.most_common(5)) or "none"
    watch = running.watch
    server = (
        ""
        if watch is None
        else f" pool {watch.sight.busy}/{watch.sight.idle} rss {watch.sight.rss / (1 << 20):.0f}MiB"
    )
    asked = rate_at(running.campaign.run.stages, max(now, 0))
    return (
        f"{now:6.0f}s  asked {asked:.1f}/s  begun {measures.offered}  open {measures.open}"
        f"  replies {replies:.1f}/s  p50 {ms(percentile(newest, 0.5))}"
        f"  p99 {ms(percentile(newest, 0.99))}  errors {errors}"
        f"  late p99 {ms(percentile(late, 0.99))}{server}"
    )


def screen(running: Running) -> Group:
    """The state of the run as a page."""
    measures, now = running.measures, max(running.now, 0.0)
    total = running.campaign.seconds
    stage = "warm-up" if now < measures.since else "finishing" if now > total else "measured"
    bar = Table.grid(padding=(0, 2))
    bar.add_row(f"{now:.0f} / {total:.0f} s", ProgressBar(total, min(now, total), width=40), stage)
    rates = Table("", "asked", "begun", "completed", "replies", "errors", box=None)
    last = [f"{_rate(running, name):.1f}" for name in ("offered", "completed", "replies", "errors")]
    rates.add_row("a second", f"{rate_at(running.campaign.run.stages, now):.1f}", *last)
    times = Table("", "p50", "p90", "p99", "p99.9", "max", box=None)
    kinds = (
        ("reply, from due", measures.reply),
        ("service, from sent", measures.service),
        ("generator late", measures.late),
    )
    for name, found in kinds:
        ordered = found.newest(NEWEST)
        times.add_row(
            name, *(ms(percentile(ordered, share)) for share in (0.5, 0.9, 0.99, 0.999, 1.0))
        )
    late = percentile(measures.late.newest(NEWEST), 0.99)
    trust = (
        Text("the generator is late: do not trust these figures", style="bold red")
        if late > LATE_BAD
        else Text("")
    )
    errors = (
        ", ".join(f"{name} {count}" for name, count in measures.errors.most_common(8)) or "none"
    )
    parts: list[RenderableType] = [
        bar,
        rates,
        times,
        Text(f"replies, last minute  {sparkline(running)}"),
        Text(f"open {measures.open}; errors: {errors}"),
        trust,
    ]
    watch = running.watch
    if watch is not None:
        sight = watch.sight
        text = (
            f"{watch.app}: {sight.busy} busy, {sight.idle} idle, {sight.queue:.0f} waiting,"
            f" {sight.rss / (1 << 20):.0f} MiB (most {sight.rss_max / (1 << 20):.0f})"
        )
        parts.append(Text(text))
    parts += [Text(f"{at:.0f} s  {text}", style="yellow") for at, text in measures.notes[-3:]]
    return Group(*parts, Text("Ctrl-C: stop and report", style="dim"))


def sparkline(running: Running) -> str:
    """Replies in each of the last 60 seconds."""
    end = int(max(running.now, 0.0))
    values = [running.measures.second(second).replies for second in range(max(0, end - 60), end)]
    most = max(values, default=0) or 1
    return "".join(SPARKS[value * (len(SPARKS) - 1) // most] for value in values)


def _rate(running: Running, name: str) -> float:
    """The mean of a count over the last 5 whole seconds."""
    end = int(max(running.now, 0.0))
    seconds = range(max(0, end - 5), end)
    total: int = sum(getattr(running.measures.second(one), name) for one in seconds)
    return total / max(len(seconds), 1)


def conclude(console: Console, summary: Row, differences: list[Difference]) -> None:
    """Print the thresholds first, then the figures behind them, and the verdict last."""
    console.print(_thresholds(summary))
    console.print(_times(summary))
    _show_dialogues(console, summary)
    if summary["errors"]:
        counts = ", ".join(f"{name} {count}" for name, count in summary["errors"].items())
        console.print(f"errors: {counts}", highlight=False)
    _show_examples(console, summary)
    if phases := summary["server"].get("phases"):
        means = ", ".join(f"{name} {ms(value)}" for name, value in phases.items())
        console.print(f"a run, on average: {means}", highlight=False)
    if held := summary["knee"]:
        more = "" if held["reached"] else " (and no sign of more being too much)"
        text = f"held {held['replies_per_second']:.1f} replies/s at p99 {ms(held['p99'])}{more}"
        console.print(text, highlight=False)
    for one in differences:
        text = f"{one.name}: {one.before} -> {one.after} {one.change}"
        console.print(text, style="red" if one.is_worse else "", highlight=False)
    notes = [f"{note['at']:.0f} s  {note['text']}" for note in summary["notes"]]
    for text in (*notes, *summary["advice"]):
        console.print(text, highlight=False)
    style = "bold green" if summary["verdict"] == "passed" else "bold red"
    console.print(_verdict(summary), style=style)


def _verdict(summary: Row) -> str:
    if summary["verdict"] != "void":
        return str(summary["verdict"])
    late = next(one for one in summary["thresholds"] if one["name"] == LATE)
    why = "nothing was measured" if late["value"] is None else "the generator was late"
    return f"void: {why}"


def _thresholds(summary: Row) -> Table:
    table = Table("", "measure", "limit", "found", "margin", "first breach", box=None)
    for one in summary["thresholds"]:
        mark = Text("ok", style="green") if one["ok"] else Text("MISSED", style="bold red")
        margin = "" if one["margin"] is None else f"{one['margin']:+.0%}"
        breach = "" if one["first_breach"] is None else f"{one['first_breach']:.0f} s"
        table.add_row(mark, one["name"], one["limit"], one["got"], margin, breach)
    return table


def _times(summary: Row) -> Table:
    table = Table("", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max", box=None)
    for name, key in (
        ("reply, from due", "replies"),
        ("service, from sent", "service"),
        ("conversation", "conversations"),
    ):
        found = summary[key]
        times = (ms(found[p]) for p in ("p50", "p90", "p99", "p999", "p9999", "max"))
        table.add_row(name, str(found["count"]), *times)
    return table


def _show_dialogues(console: Console, summary: Row) -> None:
    """Print what became of each dialogue's sessions, and which branches they took."""
    for name, one in summary["dialogues"].items():
        stayed, share = one["completed_share"], ""
        if stayed is not None:
            share = f" ({stayed:.1%} of those that stayed)"
        where = ", ".join(f"step {step}: {count}" for step, count in one["stopped_at_step"].items())
        text = (
            f"{name}: {one['completed']} of {one['started']} completed{share},"
            f" {one['gave_up']} hung up, {one['failed']} failed"
        )
        text += f"; stopped at {visible(where, keep='')}" if where else ""
        console.print(text, highlight=False, markup=False)
        for branch in one["branches"]:
            step, took = (visible(branch[key], keep="") for key in ("step", "name"))
            line = f'  step {step}: {branch["taken"]} took "{took}"'
            console.print(line, highlight=False, markup=False)


def _show_examples(console: Console, summary: Row) -> None:
    """Print the first sessions that went wrong, of each kind of error."""
    for reason, examples in summary["examples"].items():
        for one in examples[:EXAMPLES_SHOWN]:
            expected = visible(one["expected"], keep="")
            got = "nothing" if one["got"] is None else f'"{visible(one["got"], keep="")}"'
            step = visible(one["step"], keep="")
            where = f"{one['dialogue']}, step {step}, at {one['at']:.1f} s"
            text = f'  {reason}: {where}: expected "{expected}", received {got}'
            console.print(text, highlight=False, markup=False)
