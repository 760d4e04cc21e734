"""The metrics of several processes as one text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.admin.process_metrics import merged

HOSTILE = 'a"b\\c\nd # HELP {x} 1'


def exposition(count: int, *, has_more: bool = False) -> bytes:
    registry = CollectorRegistry()
    Counter("runs", "Runs, with {braces}", ["app"], registry=registry).labels(HOSTILE).inc(count)
    Gauge("lag_seconds", "Without a label", registry=registry).set(count / 2)
    Histogram("seconds", "Time", buckets=(1, 2), registry=registry).observe(count)
    if has_more:
        Gauge("more", "Only one has it", registry=registry).set(1)
    return generate_latest(registry)


def test_each_family_comes_once_and_each_sample_says_whose_it_is() -> None:
    texts = {"1": exposition(1), "2": exposition(2, has_more=True), "10": exposition(3)}
    text = merged(texts).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            key = (sample.name, labels.pop("process"), *sorted(labels.items()))
            assert key not in found
            found[key] = sample.value
    for process, count in (("1", 1), ("2", 2), ("10", 3)):
        assert found["runs_total", process, ("app", HOSTILE)] == count
        assert found["lag_seconds", process] == count / 2
        assert found["seconds_sum", process] == count
        assert found["seconds_bucket", process, ("le", "1.0")] == (count <= 1)
    assert [key[1] for key in found if key[0] == "more"] == ["2"]
    # nothing is lost and nothing made up
    single = sum(
        len(family.samples)
        for one in texts.values()
        for family in text_string_to_metric_families(one.decode())
    )
    assert len(found) == single
