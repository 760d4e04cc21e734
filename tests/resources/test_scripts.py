"""The Lua scripts on spoiled keys. A script runs alone, but nothing is rolled back: whatever may be
refused has to be, before the script's first write.
"""

from __future__ import annotations

import json
import time

import pytest

from resources.stores.redis import Redis, StoreRefused
from resources.stores.resp import Command
from resources.stores.scripts import all_scripts, script

ACCOUNT = "{a}:"
KV = [f"{{a}}:{name}" for name in ("kv:k", "kvkeys", "kvsizes", "kvbytes", "kvwarned")]
LETTERS = ["{a}:j", "{a}:begun", "{a}:letters", "{a}:texts", "{a}:counts", "{a}:seen"]
OUTBOX = [f"{{a}}:{name}" for name in ("number", "out", "bytes", "ids", "older", "handed")]
LEASE = ["{a}:lease", "{a}:last"]
OLD = {"set": {"msisdn": "+271", "created_at": "2020", "name": "x"}, "groups": ["g", "h"]}
NEW = {"set": {"msisdn": "+272", "created_at": "2021"}, "groups": ["h", "i"]}


def _run(name: str, keys: list[str], *args: object) -> Command:
    return script(name).call(keys, *args)


def _contact(key: str, change: object) -> Command:
    return _run("contact_write", [f"{{a}}:contact:{key}"], ACCOUNT, key, 0, json.dumps(change), 9)


def _accept(seen: str, *counted: object) -> Command:
    return _run("journal_accept", [seen, "{a}:j"], 60, "entry", ACCOUNT, "app", *counted)


def _post(*ids: str) -> Command:
    return _run("outbox_post", OUTBOX, "text", 9, 999, 0, 1, "sum", 60, 9, *ids)


NOW = int(time.time())
SPENT: list[Command] = [
    ("ZADD", "{a}:kvkeys", 1, "old"),
    ("HSET", "{a}:kvsizes", "old", 4),
    ("INCRBY", "{a}:kvbytes", 4),
]
KEPT = _run("kv_set", KV, "k", "12", "", 9, 1, 99)
LETTER: list[Command] = [
    ("XADD", "{a}:j", "1-1", "e", "entry"),
    ("XADD", "{a}:j", "2-1", "e", "entry"),
    ("HSET", "{a}:begun", "1-1", 1),
    _run("deadletter_put", LETTERS[:5], "2-1", "{}", "app", "text", 1, 999, "[]"),
    ("SET", "{a}:seen", "1-1"),
]
LETTER_PLACE = "9-1"
PLACED: list[Command] = [
    ("XADD", "{a}:letters", LETTER_PLACE, "s", "{}", "a", "app", "n", 4),
    ("HSET", "{a}:texts", LETTER_PLACE, "text"),
    ("HSET", "{a}:counts", "app", 1, "", 4),
    ("XADD", "{a}:j", "1-1", "e", "entry"),
]
GROUP: list[Command] = [
    _run(
        "group_create",
        ["{a}:groupname:n", "{a}:group:k", "{a}:groups"],
        "k",
        "n",
        "2020",
        ACCOUNT,
        1,
        9,
    ),
    ("SADD", "{a}:groupname:m", "other"),
]
NAMED_GROUP = ["{a}:groupname:o", "{a}:group:l", "{a}:groups"]

CHANNEL = [f"{{channel:c}}:{key.partition(':')[2]}" for key in OUTBOX]
SHARED_OUT = [*CHANNEL, "{channel:c}:takers", "{channel:c}:epoch"]
MOVED = [
    *(f"{{a}}:{name}" for name in ("out", "bytes", "handed", "times")),
    *(f"{{a}}:{name}:h" for name in ("out", "bytes", "handed", "times", "number")),
]


def _send(via: str, epoch: int, name: str) -> Command:
    args = ("me", via, "a:p:1", epoch, "text", 9, 999, 0, 1, "sum", 60, 9, name)
    return _run("outbox_send", SHARED_OUT, *args)


FOREIGN = ["{a}:foreign", "{a}:foreign:when"]

CASES: dict[str, tuple[list[Command], Command]] = {
    "contact_find": (
        [_contact("k", OLD)],
        _run("contact_find", ["{a}:contacts"], ACCOUNT, "msisdn", "+271"),
    ),
    "contact_find_or_create": (
        [
            _contact("k", OLD),
            ("HSET", "{a}:contact:l", "name", "y"),
            ("ZADD", "{a}:addr:msisdn:272", 0, "2019|m"),
        ],
        _run(
            "contact_find_or_create",
            ["{a}:contact:l"],
            ACCOUNT,
            "wechat_id",
            "w",
            "l",
            json.dumps(NEW),
            9,
        ),
    ),
    "contact_write": ([_contact("k", OLD), _contact("l", NEW)], _contact("k", NEW)),
    "contacts_changed": (
        [_contact("k", OLD), ("SET", "{a}:contacts:epoch", "1.2")],
        _run("contacts_changed", ["{a}:contacts:changed"], ACCOUNT, 0, 9, 99),
    ),
    "contacts_changed first": (
        [_contact("k", OLD)],
        _run("contacts_changed", ["{a}:contacts:changed"], ACCOUNT, 0, 9, 99),
    ),
    "deadletter_put": (
        LETTER,
        _run("deadletter_put", LETTERS, "1-1", "{}", "app", "text", 1, 999, "[]"),
    ),
    "deadletter_take": (
        PLACED,
        _run("deadletter_take", [*LETTERS[2:5], "{a}:j", "{a}:seen"], LETTER_PLACE, "entry"),
    ),
    "foreign_id_put": (
        [_run("foreign_id_put", FOREIGN, "old", "o", 1, 0, 9, 60)],
        _run("foreign_id_put", FOREIGN, "theirs", "ours", 100, 50, 1, 60),
    ),
    "group_create": (
        [*GROUP, ("HSET", "{a}:group:l", "name", "left")],
        _run("group_create", NAMED_GROUP, "l", "o", "2020", ACCOUNT, 1, 9),
    ),
    "group_list": (GROUP, _run("group_list", ["{a}:groups"], ACCOUNT, "0", 9)),
    "group_update": (
        GROUP,
        _run("group_update", ["{a}:group:k", "{a}:groupname:m"], "k", "m", 1, "q", ACCOUNT),
    ),
    "host_bury": (
        [("SET", LEASE[1], "before")],
        _run("host_bury", LEASE, "us"),
    ),
    "journal_accept shared": (
        [("SET", "{a}:owner", "1 other process")],
        _run(
            "journal_accept",
            ["{a}:1", "{a}:j", "{a}:owner"],
            *(60, "entry", ACCOUNT, "app", "message", "+271", NOW, "me", "news"),
        ),
    ),
    "journal_end": (
        [
            ("XADD", "{a}:j", "1-1", "e", "entry"),
            ("HSET", "{a}:begun", "1-1", 1),
            ("SET", "{a}:seen", "1-1", "EX", 60),
        ],
        _run("journal_end", ["{a}:j", "{a}:begun", "{a}:seen"], "1-1", "ok", "via", "news"),
    ),
    "journal_accept": (
        [_accept("{a}:1", "message", "+271", NOW)],
        _accept("{a}:2", "message", "+272", NOW),
    ),
    "journal_accept event": (
        [_accept("{a}:1", "event", "ack", "pending")],
        _accept("{a}:2", "event", "ack", "pending"),
    ),
    "kv_count": (
        [
            KEPT,
            ("SET", "{a}:kv:l", 1),
            ("ZADD", "{a}:kvkeys", "+inf", "l"),
            ("SET", "{a}:kv:m", 1),
            ("ZADD", "{a}:kvkeys", "+inf", "m"),
        ],
        _run("kv_count", [*KV[1:4], "{a}:kv:l", "{a}:kv:m"], "l", "m"),
    ),
    "kv_delete": ([KEPT], _run("kv_delete", KV[:4], "k")),
    "kv_incr": ([KEPT, *SPENT], _run("kv_incr", KV, "k", 1000, 9, 1, 99)),
    "kv_incr new": (
        [KEPT, *SPENT],
        _run("kv_incr", ["{a}:kv:n", *KV[1:]], "n", 1000, 9, 1, 99),
    ),
    "kv_set": ([KEPT, *SPENT], _run("kv_set", KV, "k", "12345", "", 9, 1, 99)),
    "kv_set new": (
        [KEPT, *SPENT],
        _run("kv_set", ["{a}:kv:n", *KV[1:]], "n", "12345", 60, 9, 1, 99),
    ),
    "lease_give": ([("SET", "{a}:lease", "x")], _run("lease_give", ["{a}:lease"], "x")),
    "lease_take": ([("SET", LEASE[1], "{}")], _run("lease_take", LEASE, "{}", 9000, 0)),
    "lease_take again": (
        [_run("lease_take", LEASE, '{"id":"i"}', 9000, 0)],
        _run("lease_take", LEASE, '{"id":"i","nonce":1}', 9000, 0),
    ),
    "lease_take renew": (
        [_run("lease_take", LEASE, "{}", 9000, 0)],
        _run("lease_take", LEASE, "{}", 9000, 1),
    ),
    "metrics_merge": (
        [_run("metrics_merge", ["{a}:m"], 60, "p.sum", 1, 2, 2, 2, 2)],
        _run("metrics_merge", ["{a}:m"], 60, "q.sum", 1, 1, 1, 1, 1, "p.sum", 2, 5, 1, 4, 1),
    ),
    "optout_clear": ([("HSET", "{a}:o", "x", 1)], _run("optout_clear", ["{a}:o"], "x")),
    "optout_set": ([("HSET", "{a}:o", "x", 1)], _run("optout_set", ["{a}:o"], "y", "{}", 9)),
    "outbox_forget": (
        [("SET", "{a}:posted", 4), ("SET", "{a}:handed", 4)],
        _run("outbox_forget", ["{a}:takers", "{a}:out", "{a}:posted", "{a}:handed"], "dead"),
    ),
    "outbox_move": (
        [_post("i"), _post("j"), ("HSET", "{a}:times", 1, 2), ("XADD", MOVED[4], "7-1", "m", "x")],
        _run("outbox_move", MOVED, 9),
    ),
    "outbox_send": (
        [_send("", 1, "i"), ("HSET", SHARED_OUT[6], "via", "g")],
        _send("via", 2, "j"),
    ),
    "outbox_send nowhere": ([_send("", 1, "i")], _send("", 2, "j")),
    "outbox_page": (
        [_post("i")],
        _run("outbox_page", [OUTBOX[1], OUTBOX[5], "{a}:times"], "-", 9, 999),
    ),
    "outbox_post": ([_post("i"), ("HSET", "{a}:older", "h", "1 sum")], _post("j", "needless")),
    "outbox_post lost": ([_post("i"), ("DEL", "{a}:number")], _post("j")),
    "outbox_post unremembered": ([_post("i")], _post("")),
    "outbox_strike": (
        [_post("i"), _post("j"), ("HSET", "{a}:times", 1, 2)],
        _run("outbox_strike", [OUTBOX[1], OUTBOX[2], "{a}:times"], "1", 1, 4, 2, -1),
    ),
    "outbox_raise": ([("SET", "{a}:number", 4)], _run("outbox_raise", ["{a}:number"], 7)),
    "partition_give": (
        [("SET", "{a}:owner", "3 me now")],
        _run("partition_give", ["{a}:owner"], "3 me now"),
    ),
    "partition_take": (
        [("SET", "{a}:owner", "3 dead one")],
        _run("partition_take", ["{a}:owner"], "me now", "3 dead one"),
    ),
    "recording_put": (
        [("LPUSH", "{a}:recordings", "{a}:r:1"), ("SET", "{a}:r:1", "old")],
        _run("recording_put", ["{a}:recordings"], "{a}:r:2", "text", 60, 1),
    ),
    "statistics_outbound": (
        [_run("statistics_outbound", ["{a}:stats:app"], ACCOUNT, "app", "+271", NOW)],
        _run("statistics_outbound", ["{a}:stats:app"], ACCOUNT, "app", "+272", NOW),
    ),
    "store_share": ([("SET", LEASE[1], "x")], _run("store_share", LEASE, "all", 9000)),
    "statistics_rate": (
        [_run("statistics_outbound", ["{a}:stats:app"], ACCOUNT, "app", "+271", NOW)],
        _run("statistics_rate", ["{a}:stats:app"], ACCOUNT, "app", "out", 60),
    ),
}
"""What there is beforehand, and the call: of each script its longest way, and others."""


# No numbers, of which Lua takes some for one: none that INCRBY would count on from.
SPOILT = ("word", "1.5", "inf", "9" * 19)


async def _dump(redis: Redis) -> dict[bytes, object]:
    keys = sorted(await redis.execute("KEYS", "*"))
    return {key: await redis.execute("DUMP", key) for key in keys}


async def _spoiled(redis: Redis, key: bytes) -> list[list[Command]]:
    """Ways in which a key can be of another type, or hold no number where one is expected."""
    kind = await redis.execute("TYPE", key)
    other: Command = ("RPUSH", key, "x") if kind != b"list" else ("SET", key, "x")
    found: list[list[Command]] = [[("DEL", key), other]]
    if kind in (b"string", b"none"):
        text = await redis.execute("GET", key)
        if text is None or text.isdigit():
            found += [[("SET", key, spoilt)] for spoilt in SPOILT]
        if text is not None and text.startswith(b"HYLL"):
            found.append([("SET", key, "no such thing")])
    if kind == b"hash":
        flat = await redis.execute("HGETALL", key)
        found += [
            [("HSET", key, name, spoilt)]
            for name, text in zip(flat[::2], flat[1::2], strict=True)
            if text.isdigit()
            for spoilt in SPOILT
        ]
    return found


async def _prepare(redis: Redis, before: list[Command]) -> None:
    await redis.execute("FLUSHALL")
    await redis.execute_many(before)


@pytest.mark.parametrize("case", CASES)
async def test_a_script_that_is_refused_has_written_nothing(redis: Redis, case: str) -> None:
    """Whichever key is spoiled: the script does all, or raises an error and does nothing."""
    before, call = CASES[case]
    await _prepare(redis, before)
    await redis.execute(*call)
    partly = []
    for key in await _dump(redis):
        await _prepare(redis, before)
        for spoiling in await _spoiled(redis, key):
            await _prepare(redis, before)
            await redis.execute_many(spoiling)
            found = await _dump(redis)
            (answer,) = await redis.attempt([call])
            if isinstance(answer, StoreRefused) and (left := await _dump(redis)) != found:
                changed = [each for each in left if left[each] != found.get(each)]
                partly.append(f"{spoiling[-1]}: {answer} after it wrote {changed}")
    assert not partly, "\n".join(partly)


def test_every_script_has_a_case() -> None:
    """A new script needs one."""
    assert {case.split()[0] for case in CASES} == {one.name for one in all_scripts()}


def test_no_two_scripts_have_the_same_digest() -> None:
    assert len({one.digest for one in all_scripts()}) == len(all_scripts())
