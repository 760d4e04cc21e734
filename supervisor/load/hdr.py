"""The latencies of a run as HDR histograms, which other tools read: every second of it (.hlog), and
the curve of percentiles (.hgrm, for HdrHistogram's plotter).

Values are in microseconds, to three digits; what an interval's line and the curve show, in
milliseconds. Warm-up is left out.
"""

from __future__ import annotations

import io
import re
from datetime import datetime
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

from .measures import Measures, Times

LEAST, MOST, DIGITS = 1, 3_600_000_000, 3  # microseconds; longer ones count as an hour
IN_MS = 1000  # of these units
TICKS = 5  # points of the curve for each halving of the distance to 100%
_DEVIATION = re.compile(rb"(?<=StdDeviation   = ) *[0-9.]+")


def write_histograms(folder: Path, measures: Measures, began: datetime) -> None:
    """Write both files of each kind of latency that was measured. `began`: the run's start."""
    folder.mkdir(exist_ok=True)
    kinds = {"reply": measures.reply, "service": measures.service, "session": measures.session}
    for name, times in kinds.items():
        log, curve = folder / f"{name}.hlog", folder / f"{name}.hgrm"
        with log.open("w", encoding="utf-8") as file:
            whole = _write_log(file, times, measures.since, began)
        with curve.open("wb") as binary:
            binary.write(_curve(whole))


def _write_log(file: object, times: Times, since: float, began: datetime) -> HdrHistogram:
    """Write the seconds; return all of them together."""
    writer = HistogramLogWriter(file)
    writer.output_log_format_version()
    start = began.timestamp()
    writer.output_comment(f"[StartTime: {start:.3f} (seconds since epoch), {began.isoformat()}]")
    writer.output_comment("[latencies in microseconds]")
    writer.output_legend()
    whole = _empty()
    for second, found in times.slices(1.0, since).items():
        one = _empty()
        for took in found:
            one.record_value(min(max(round(took * 1_000_000), LEAST), MOST))
        # 0 would stand for the histogram's own time
        writer.output_interval_histogram(one, second or 1e-9, second + 1, IN_MS)
        whole.add(one)
    return whole


def _curve(whole: HdrHistogram) -> bytes:
    """The curve of percentiles in milliseconds. hdrh leaves the deviation in its footer unscaled,
    beside a mean that is.
    """
    written = io.BytesIO()
    whole.output_percentile_distribution(written, IN_MS, TICKS)
    deviation = b"%12.3f" % (whole.get_stddev() / IN_MS)
    return _DEVIATION.sub(deviation, written.getvalue())


def _empty() -> HdrHistogram:
    return HdrHistogram(LEAST, MOST, DIGITS)
