"""The results of a run as data: its measures, the thresholds judged, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import asdict, frozen

from .measures import DialogueCounts, Measures, Second, Times, percentile, place_text
from .run import Running
from .schedule import rate_at
from .stub import Stubs
from .thresholds import LATE, LATE_LIMIT, PERCENTILES, Threshold, parse_threshold
from .watch import Watch

WINDOW = 5.0  # seconds of a stretch in which a rate must hold
SLOW_MULTIPLE = 4.0  # a stretch holds if its p99 is below this many times that of the quietest
BIG_SHARE = 0.4  # of a run's time; a phase that takes more gets advice

Row = dict[str, Any]


@frozen
class Judged:
    """A threshold and its result.

    Attributes:
        got: The measured value; None if nothing was measured.
        breach: The second of its first breach.
    """

    threshold: Threshold
    got: float | None
    holds: bool
    breach: float | None

    def row(self) -> Row:
        """This result as JSON."""
        one = self.threshold
        shown = "nothing was measured" if self.got is None else one.show(self.got)
        margin = None
        if self.got is not None and one.limit:
            margin = (one.limit - self.got) / one.limit * (-1 if one.operator in (">", ">=") else 1)
        return {
            "name": one.name,
            "limit": str(one),
            "got": shown,
            "value": self.got,
            "ok": self.holds,
            "margin": margin,
            "first_breach": self.breach,
        }


def summarise(running: Running) -> Row:
    """The whole run as JSON."""
    measures, campaign = running.measures, running.campaign
    judged = [_judge(one, running) for one in _thresholds(running)]
    late = next(one for one in judged if one.threshold.name == LATE)
    verdict = "passed" if all(one.holds for one in judged) else "missed"
    if not late.holds:
        verdict = "void"
    seconds = max(running.ended - measures.since, 0.001)
    total = _total(measures)
    watch = running.watch
    return {
        "version": 1,
        "campaign": str(campaign.file),
        "began": running.began_at,
        "seconds": round(running.ended, 3),
        "warmup": measures.since,
        "seed": running.seed,
        "verdict": verdict,
        "stopped": running.is_stopped,
        "thresholds": [one.row() for one in judged],
        "sessions": _counts(total) | {"offered": measures.offered, "skipped": measures.skipped},
        "replies": _times(measures.reply, measures) | {"rate": _count_since(measures) / seconds},
        "service": _times(measures.service, measures),
        "conversations": _times(measures.session, measures),
        "missing_replies": measures.missing_replies,
        "errors": dict(measures.errors.most_common()),
        "examples": {
            reason: [asdict(one) for one in measures.examples.get(reason, ())]
            for reason, _ in measures.errors.most_common()
        },
        "dialogues": {name: of_dialogue(one) for name, one in sorted(measures.dialogues.items())},
        "generator": {
            "late": _times(measures.late, measures),
            "cpu": running.cpu / max(running.ended, 0.001),
            "reconnects": sum(client.reconnects for client in running.clients),
            "redelivered": sum(client.redelivered for client in running.clients),
        },
        "server": {} if watch is None else _server(watch),
        "stubs": {} if running.stubs is None else _stubs(running.stubs),
        "knee": knee(running),
        "advice": [] if watch is None else advice(watch.phases(), watch.app),
        "notes": [{"at": at, "text": text} for at, text in measures.notes],
        "timeline": _timeline(running),
        "host": running.host,
    }


def _server(watch: Watch) -> Row:
    return {
        "app": watch.app,
        "rss_max": watch.sight.rss_max,
        "starts": watch.starts,
        "phases": watch.phases(),
        "unseen": watch.sight.failures,
    }


def _stubs(stubs: Stubs) -> Row:
    return {str(status): count for status, count in sorted(stubs.requests.items())}


def _thresholds(running: Running) -> list[Threshold]:
    given = list(running.campaign.thresholds)
    if all(one.name != LATE for one in given):
        given.append(parse_threshold(LATE, LATE_LIMIT))
    return given


def _judge(one: Threshold, running: Running) -> Judged:
    measures = running.measures
    got = _value(one, running)
    holds = got is not None and one.holds(got)
    breach = None
    times = _times_of(one.name, measures)
    if not holds and times is not None and got is not None:
        share = PERCENTILES[one.name.rpartition(".")[2]]
        slices = times.slices(WINDOW).items()
        breach = next(
            (key * WINDOW for key, found in slices if not one.holds(_point(found, share))), None
        )
    return Judged(one, got, holds, breach)


def _times_of(name: str, measures: Measures) -> Times | None:
    kinds = {
        "reply": measures.reply,
        "service": measures.service,
        "session": measures.session,
        "generator": measures.late,
    }
    kind, _, last = name.partition(".")
    return kinds[kind] if kind in kinds and last.rpartition(".")[2] in PERCENTILES else None


def _point(ordered: Sequence[float], share: float | None) -> float:
    return sum(ordered) / len(ordered) if share is None else percentile(ordered, share)


def _value(one: Threshold, running: Running) -> float | None:
    measures, name = running.measures, one.name
    times = _times_of(name, measures)
    if times is not None:
        found = times.measured(measures.since)
        return _point(found, PERCENTILES[name.rpartition(".")[2]]) if found else None
    total = _total(measures)
    ended = total.completed + total.gave_up + total.failed + total.unfinished
    seconds = max(running.ended - measures.since, 0.001)
    if one.dialogue is not None:
        return _completed(measures.counts(one.dialogue))
    if name == "sandbox.rss.max":
        return (
            float(running.watch.sight.rss_max)
            if running.watch is not None and running.watch.sight.rss_max
            else None
        )
    values: dict[str, float | None] = {
        "missing_replies": measures.missing_replies,
        "errors": sum(measures.errors.values()),
        "sessions.failed": total.failed,
        "sessions.unfinished": total.unfinished,
        "sessions.completed": _completed(total),
        "sessions.rate": total.completed / seconds,
        "replies.rate": _count_since(measures) / seconds,
        "sandbox.starts": None if running.watch is None else running.watch.starts,
    }
    value = values[name] if name in values else measures.errors[name.removeprefix("errors.")]
    if value is not None and one.unit == "ratio" and name != "sessions.completed":
        return value / ended if ended else None
    return value


def _count_since(measures: Measures) -> int:
    return sum(at >= measures.since for at in measures.service.at)


def _total(measures: Measures) -> DialogueCounts:
    total = DialogueCounts()
    for counts in measures.dialogues.values():
        for name in ("started", "completed", "gave_up", "failed", "unfinished"):
            setattr(total, name, getattr(total, name) + getattr(counts, name))
    return total


def _completed(counts: DialogueCounts) -> float | None:
    """The completed share of the sessions whose users stayed; None if there are none."""
    stayed = counts.started - counts.gave_up
    return counts.completed / stayed if stayed else None


def _counts(counts: DialogueCounts) -> Row:
    return {
        "started": counts.started,
        "completed": counts.completed,
        "gave_up": counts.gave_up,
        "failed": counts.failed,
        "unfinished": counts.unfinished,
        "completed_share": _completed(counts),
    }


def of_dialogue(counts: DialogueCounts) -> Row:
    """What became of its sessions, with the places in it as they are shown."""
    return _counts(counts) | {
        "stopped_at_step": {place_text(step): n for step, n in sorted(counts.stopped.items())},
        "branches": [
            {"step": place_text(place[:-1]), "name": place[-1], "taken": n}
            for place, n in sorted(counts.branches.items())
        ],
    }


def _times(times: Times, measures: Measures) -> Row:
    found = times.measured(measures.since)
    points = {name: _point(found, share) if found else None for name, share in PERCENTILES.items()}
    return {"count": len(found), **points, "p99999": percentile(found, 0.99999) if found else None}


def _timeline(running: Running) -> list[Row]:
    """Every second from the first to the last. Without replies in it, it has no latency."""
    slices, seconds = running.measures.reply.slices(1.0), running.measures.timeline
    every = range(min(seconds), max(seconds) + 1) if seconds else range(0)
    return [
        {
            "at": second,
            "target": rate_at(running.campaign.run.stages, float(second)),
            "offered": one.offered,
            "completed": one.completed,
            "replies": one.replies,
            "errors": one.errors,
            "p50": percentile(found, 0.5) if found else None,
            "p99": percentile(found, 0.99) if found else None,
        }
        for second in every
        for one, found in [(seconds.get(second, Second()), slices.get(second, ()))]
    ]


def knee(running: Running) -> Row | None:
    """Find the highest rate of replies in a stretch that held; None if there is no stretch.

    A stretch holds without errors, and if it is not many times slower than the quietest one.
    """
    measures = running.measures
    stretches: list[tuple[float, float]] = []
    for key, found in measures.service.slices(WINDOW).items():
        begin = key * WINDOW
        seconds = [
            one for second, one in measures.timeline.items() if begin <= second < begin + WINDOW
        ]
        if (
            begin >= measures.since
            and begin + WINDOW <= running.ended
            and not sum(one.errors for one in seconds)
        ):
            stretches.append((len(found) / WINDOW, percentile(found, 0.99)))
    if not stretches:
        return None
    quiet = min(p99 for _, p99 in stretches)
    rate, p99 = max(one for one in stretches if one[1] <= quiet * SLOW_MULTIPLE)
    return {
        "replies_per_second": rate,
        "p99": p99,
        "reached": max(one[0] for one in stretches) > rate,
    }


def advice(phases: dict[str, float], app: str) -> list[str]:
    """Advise what to look at first, from where the time of a run goes."""
    total = sum(phases.values())
    if not total:
        return []
    share = {name: seconds / total for name, seconds in phases.items()}
    lines = []
    if share["queue"] > BIG_SHARE:
        lines.append(
            f"{share['queue']:.0%} of the time messages wait for their turn: if the host has idle"
            f" cores, raise pool.max_processes ([apps.{app}.pool] max_processes = ...);"
            " if not, this is all it can do"
        )
    if share.get("held", 0.0) > BIG_SHARE / 2:
        lines.append(
            f"{share['held']:.0%} of the time runs are held back, since runs before them ended"
            f" their process: jsbox logs {app} --level error"
        )
    if share["boot"] > BIG_SHARE / 2:
        lines.append(
            f"{share['boot']:.0%} of the time runs wait for a process to start:"
            f" keep some warm ([apps.{app}.pool] min_idle = ...)"
        )
    if share["calls"] > BIG_SHARE:
        lines.append(
            f"{share['calls']:.0%} of the time the app waits for its commands:"
            " back ends, or the store"
        )
    if share["app"] > BIG_SHARE:
        lines.append(f"{share['app']:.0%} of the time is the app's own JavaScript")
    return lines
