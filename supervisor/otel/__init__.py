"""Traces for OpenTelemetry: what each run did, as spans, to a collector by OTLP over HTTP.

The official SDK runs in a process of its own, and only if an endpoint is configured. Whatever a
collector does, and however slow the SDK is, costs no run anything: the supervisor writes to a pipe,
keeps a bounded queue, and kills a process that takes too long.
"""
