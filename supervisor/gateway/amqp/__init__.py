"""Channels over RabbitMQ, as Vumi, Junebug and vumi2 use it.

A channel is an application worker's connector: it consumes NAME.inbound and NAME.event, and
publishes to NAME.outbound. `link` keeps it connected, `session` is one connection, `inbound` and
`publisher` its two directions, `wire` the protocol.
"""

from .link import AmqpLink

__all__ = ["AmqpLink"]
