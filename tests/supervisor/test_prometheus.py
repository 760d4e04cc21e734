"""What is counted of the events."""

from __future__ import annotations

from typing import get_args

from supervisor.observe import Delivered, Event, LimitNear, Phases, RunEnded
from supervisor.outcomes import Outcome
from supervisor.prometheus import Prometheus


def test_every_kind_of_event_is_counted() -> None:
    """None is forgotten when one is added."""
    assert set(Prometheus().counting) == set(get_args(Event))


def test_a_run_that_hit_a_limit_counts_as_failed_and_as_a_hard_hit() -> None:
    """One that only came close is a soft hit."""
    prometheus = Prometheus()
    prometheus(RunEnded("app", "message", Outcome.CPU, Phases(queue=1.0, app=2.0)))
    prometheus(LimitNear("app", "cpu"))

    def value(name: str, **labels: str) -> float | None:
        return prometheus.registry.get_sample_value(name, {"app": "app", **labels})

    assert value("jsbox_messages_total", kind="message", outcome="cpu") == 1
    assert value("jsbox_messages_failed_total", reason="cpu") == 1
    assert value("jsbox_limit_hits_total", limit="cpu", level="hard") == 1
    assert value("jsbox_limit_hits_total", limit="cpu", level="soft") == 1
    assert value("jsbox_message_duration_seconds_sum", phase="total") == 3.0


def test_a_repeated_delivery_is_not_a_delivery() -> None:
    """Each has its own counter."""
    prometheus = Prometheus()
    prometheus(Delivered("phone", again=False))
    prometheus(Delivered("phone", again=True))
    for name in ("jsbox_outbound_total", "jsbox_redeliveries_total"):
        assert prometheus.registry.get_sample_value(name, {"channel": "phone"}) == 1
