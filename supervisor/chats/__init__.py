"""Tests of apps, `jsbox test`: conversations held with an app in the real sandbox, and compared
with what their files expect.

reading.py makes a `Chat` of a file; bench.py is a service that plays one after the other; play.py
plays one; looking.py compares what the app did; report.py tells what differs; update.py writes the
app's own words into a file.
"""
