"""Read all that Valkey holds under one root, without the Lua library: records, indexes, outbox, histories."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis

from penstock.states import FLOW_MOVES, MOVES, TERMINAL

TIME_SPAN = 2**42
_SHORT = 2
_LUA = (Path(__file__).parents[2] / "lua" / "core" / "words.lua").read_text()
_WORDS = {0: b"\xc1", 255: b"\xcf\0\0\1"} | {
    place: bytes([0xA0 + len(word)]) + word.encode()
    for place, word in enumerate(
        re.findall(r"'(\w+)'", _LUA[_LUA.index("WORDS = {") : _LUA.index("}")]), start=1
    )
}
"""What stands for two bytes in a shortened record (lua/core/words.lua)."""
_unpack = msgspec.msgpack.Decoder(strict=False).decode
Sets = dict[str, dict[str, float]]


@dataclass
class Event:
    entity: str
    id: str
    seq: int
    name: str
    from_state: str
    to_state: str
    reason: str
    data: Any


class StateDump:
    """A dump of partition 0, with checks of its invariants. `retention` is the stores' setting (ms)."""

    def __init__(self, redis: "Redis[bytes]", root: str, retention: int) -> None:
        self._redis = redis
        self._root = f"{root}:{{0}}:"
        self._retention = retention
        self._after = "-"
        self.events: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
        self.executions: dict[str, dict[str, Any]] = {}
        self.flows: dict[str, dict[str, Any]] = {}
        self.waitpoints: dict[str, dict[str, Any]] = {}
        self.keys: set[str] = set()
        self._logs: dict[str, bytes] = {}

    def look(self) -> None:
        """Read all records, and the new entries of the outbox."""
        names = [name.decode() for name in self._redis.keys(f"{self._root}*")]
        self.keys = {name.removeprefix(self._root) for name in names}
        kinds = {"x": self.executions, "f": self.flows, "w": self.waitpoints}
        wanted: list[tuple[dict[str, dict[str, Any]], str]] = []
        pipe = self._redis.pipeline(transaction=False)
        for name in self.keys:
            kind, _, entity_id = name.partition(":")
            if kind in kinds:
                wanted.append((kinds[kind], entity_id))
                pipe.get(self._root + name)
        found = pipe.execute()
        for records in kinds.values():
            records.clear()
        for (records, entity_id), packed in zip(wanted, found, strict=True):
            kind = "w" if records is self.waitpoints else "x"
            records[entity_id], self._logs[entity_id] = _record(kind, packed)
        for entry_id, fields in self._redis.xrange(f"{self._root}outbox", self._after, "+"):
            self._after = f"({entry_id.decode()}"
            packed = _unpack(fields[b"e"])
            for (entity, _, ids), event in zip(packed[::2], packed[1::2], strict=True):
                seq, name, _, _, from_state, to_state, reason, data = event
                for of in ids if isinstance(ids, list) else [ids]:
                    self.events[entity, of].append(
                        Event(entity, of, seq, name, from_state, to_state, reason, data)
                    )

    # -- invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant that must hold after any op."""
        self._check_indexes()
        self._check_queues_can_be_found()
        self._check_events()
        for execution_id, x in self.executions.items():
            self._check_record(execution_id, x)
        for flow_id, f in self.flows.items():
            if f["kind"] == "mirrored":
                continue  # it counts steps
            states = Counter(x["state"] for x in self.executions.values() if x.get("flow_id") == flow_id)
            assert {state: n for state, n in dict(f["counts"]).items() if n} == states, "counts disagree"

    def _check_indexes(self) -> None:
        expected: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for execution_id, x in self.executions.items():
            for name, score in self._placement(x).items():
                expected[name][execution_id] = score
        for flow_id, f in self.flows.items():
            for name, score in self._flow_placement(f).items():
                expected[name][flow_id] = score
        for waitpoint_id, w in self.waitpoints.items():
            at = w.get("expires_at") if w["state"] == "pending" else w.get("retire_at")
            if at is not None:
                expected["due:signal_router:w"][waitpoint_id] = at
            if "execution_id" in w:
                live = w["state"] in ("pending", "open")
                x = self.executions.get(w["execution_id"], {})
                assert live == (waitpoint_id in x.get("waitpoints", ())), (
                    "live waitpoints are in their execution"
                )
                status = {"pending": "pending", "open": "active"}.get(w["state"], "closed")
                if not live:
                    expected[f"wx:{w['execution_id']}"][waitpoint_id] = 0.0
                expected[f"ws:{w.get('namespace', 'default')}|{status}"][waitpoint_id] = 0.0
        if self.executions:
            expected["all"] = dict.fromkeys(self.executions, 0.0)
        actual = self._sets(
            "all", "s:", "q:", "due:", "fs:", "fb:", "ew:", "ws:", "wx:", "ch:", "failures:", "parent:"
        )
        assert actual == dict(expected), "indexes disagree with records"

    def _sets(self, *prefixes: str) -> Sets:
        names = [name for name in self.keys if name.startswith(prefixes)]
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.zrange(self._root + name, 0, -1, withscores=True)
        found = pipe.execute()
        return {
            name: {member.decode(): score for member, score in pairs}
            for name, pairs in zip(names, found, strict=True)
        }

    def _placement(self, x: dict[str, Any]) -> dict[str, float]:
        """Return the indexes that an execution must be in according to its record: {key: score}."""
        state = x["state"]
        placement = {f"s:{x['lane']}:{state}": 0.0}
        if "failure" in x:
            placement[f"failures:{x['failure']['category']}"] = 0.0
        if "parent_id" in x:
            placement[f"parent:{x['parent_id']}"] = 0.0

        def earliest(name: str, *times: float | None) -> None:
            known = [time for time in times if time is not None]
            if known:
                placement[name] = min(known)

        if state in TERMINAL:
            if "flow_id" not in x:
                earliest("due:scheduler:x", x["finished_at"] + x.get("retention_ms", self._retention))
            if "closing" in x:
                placement["due:cancel_reconciler:x"] = x["closing"]["at"]
            return placement
        if "parent_id" in x and x.get("parent_close") != "let_run":
            placement[f"ch:{x['parent_id']}"] = 0.0
        if state == "ready" and "grant_id" not in x and "aside" not in x:
            queue = f"q:{x['lane']}|{x.get('caps', '')}|{x['kind']}|{x.get('fairness_key', '')}"
            placement[queue] = (127 - x.get("priority", 0)) * TIME_SPAN + x["ready_at"]
        starts = x.get("wake_at") if state == "scheduled" else None
        earliest("due:scheduler:x", x.get("deadline_at"), x.get("grant_expires_at"), starts)
        if state == "retry_wait":
            earliest("due:lease_keeper:x", x["wake_at"])
        elif state in ("leased", "running"):
            earliest("due:lease_keeper:x", x["lease_expires_at"], x.get("attempt_expires_at"))
        elif state == "suspended":
            earliest(f"due:{x.get('wake_by', 'signal_router')}:x", x.get("wake_at"))
        earliest("due:cancel_reconciler:x", x.get("cancel_at"))
        return placement

    def _flow_placement(self, f: dict[str, Any]) -> dict[str, float]:
        placement = {f"fs:{f['status']}": 0.0, f"fb:{f['owner']}:{f['status']}": 0.0}
        counts = f["counts"] or {}
        if "work_at" in f:
            placement["due:scheduler:f"] = f["work_at"]
        elif not FLOW_MOVES[f["status"]] and (
            f["kind"] == "mirrored" or sum(counts.get(state, 0) for state in TERMINAL) >= f["total"]
        ):
            placement["due:scheduler:f"] = f.get("retire_at", f["finished_at"] + self._retention)
        elif f["status"] == "created":
            placement["due:scheduler:f"] = f["updated_at"] + self._retention
        if "cancel_at" in f:
            placement["due:cancel_reconciler:f"] = f["cancel_at"]
        if f["status"] == "waiting":
            if times := [f[name] for name in ("wake_at", "look_at") if name in f]:
                placement["due:signal_router:f"] = min(times)
            if "awaits" in f and not f.get("cancel_requested"):
                placement[f"ew:{f['awaits']['topic']}|{f['awaits']['correlation_id']}"] = 0.0
        return placement

    def _check_queues_can_be_found(self) -> None:
        """Every queue with work must be reachable from its lane; else no worker would ever get that work."""
        for name in self.keys:
            if name.startswith("q:"):
                lane, caps, kind, fair = name.removeprefix("q:").split("|")[:4]
                front = self._redis.zscore(f"{self._root}fronts:{lane}|{caps}", kind)
                [(_, score)] = self._redis.zrange(f"{self._root}{name}", 0, 0, withscores=True)
                assert front is not None and front <= score, f"{name}: its ring's front is behind it"
                assert self._redis.zscore(f"{self._root}kinds:{lane}|{caps}", kind) is not None, name
                assert self._redis.sismember(f"{self._root}rings:{lane}|{fair}", f"{caps}|{kind}"), name
                turns = self._redis.zscore(f"{self._root}ring:{lane}|{caps}|{kind}", fair)
                assert turns is not None, f"{name} is not in its ring"
                all_turns = self._redis.zscore(f"{self._root}turns:{lane}", fair)
                assert all_turns is not None, f"{name}: its key has no turns"
                assert turns <= all_turns, f"{name}: the ring knows of turns that were not taken"
                if caps:
                    group = (self._redis.hget(f"{self._root}sets:{lane}", caps) or b"").decode()
                    assert group in caps.split(","), f"{name}: its set is in no group"
                    assert self._redis.sismember(f"{self._root}caps:{lane}|{group}", caps), name
                    assert self._redis.sismember(f"{self._root}caps:{lane}", group), name

    def _check_events(self) -> None:
        """Events must be numbered without gaps, make legal moves, and agree with the record and the history."""
        for (entity, entity_id), events in self.events.items():
            assert [event.seq for event in events] == list(range(1, len(events) + 1)), (entity, entity_id)
            if entity in ("execution", "flow"):
                last = _follow(MOVES if entity == "execution" else FLOW_MOVES, events)
                record = (self.executions if entity == "execution" else self.flows).get(entity_id)
                if record is not None:
                    assert record["seq"] == len(events), (entity, entity_id)
                    assert record["state" if entity == "execution" else "status"] == last
        if not self.executions:
            return
        begun_logs = self._redis.mget([f"{self._root}h:{execution_id}" for execution_id in self.executions])
        for (execution_id, x), begun in zip(self.executions.items(), begun_logs, strict=True):
            assert ("execution", execution_id) in self.events
            log = (begun or b"") + self._logs[execution_id]
            history = _unpack(b"\xdc" + x["seq"].to_bytes(2, "big") + log)
            told = self.events["execution", execution_id]
            kept = [(event[0], _BRIEFLY.get(event[1], event[1])) for event in history]
            assert kept == [(event.seq, event.name) for event in told]

    def _check_record(self, execution_id: str, x: dict[str, Any]) -> None:
        held = x["state"] in ("leased", "running")
        for name in ("lease_id", "lease_expires_at", "worker_id", "lease_ttl_ms"):
            assert (name in x) == held, (execution_id, name)
        assert x.get("attempt_index", 0) <= x.get("max_attempts", 1), execution_id
        assert "grant_id" not in x or x["state"] == "ready", execution_id
        assert ("outcome" in x) == (x["state"] in TERMINAL), execution_id
        assert ("finished_at" in x) == (x["state"] in TERMINAL), execution_id
        assert "cancel_at" not in x or held, execution_id
        assert not x.get("cancel_requested") or held or x["state"] in TERMINAL, execution_id
        epochs = sum(
            event.from_state == "ready" and event.to_state in ("leased", "running")
            for event in self.events["execution", execution_id]
        )
        assert x.get("lease_epoch", 0) == epochs, "each lease is one more epoch"


_FIXED = {
    0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5,
    0xD3: 9,
}  # fmt: skip


_BRIEFLY = {1: "created", 2: "started", 3: "completed"}
"""The events that a history keeps briefly, by code (lua/execution/history.lua)."""
_BY_PLACE = {
    "x": (
        "kind", "lane", "state", "seq", "created_at", "updated_at", "ready_at", "input", "fresh", "attempt_index",
        "attempt_id", "started_at", "lease_epoch", "worker_id", "lease_id", "lease_ttl_ms", "lease_expires_at",
        "finished_at", "outcome", "result", "last",
    ),
    "w": ("execution_id", "attempt", "key", "state", "created_at", "seq", "condition", "entry"),
}  # fmt: skip
"""The fields stored by position, behind the number of their form (lua/execution/form.lua, waitpoint/form.lua)."""
_SINCE_CREATED = ("updated_at", "ready_at", "started_at", "lease_expires_at", "finished_at")


def _record(kind: str, packed: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a record, and its history: a map with the history behind it, or values by position."""
    if packed[0] == _SHORT:
        packed = re.sub(rb"\xc1(.)", lambda found: _WORDS[found[1][0]], packed[1:], flags=re.DOTALL)
    end = _end_of(packed, 0)
    if end > 1:
        return _unpack(packed[:end]), packed[end:]
    values: list[bytes] = []
    while end < len(packed):
        begin, end = end, _end_of(packed, end)
        values.append(packed[begin:end])
    names = _BY_PLACE[kind]
    placed = zip(names, map(_unpack, values), strict=False)
    x = {name: value for name, value in placed if value is not None} | (_unpack(values[len(names)]) or {})
    if kind == "w":
        return _waitpoint(x), b""
    for name in _SINCE_CREATED:
        if name in x:
            x[name] += x["created_at"]
    return x, _content(values[-1])


def _waitpoint(w: dict[str, Any]) -> dict[str, Any]:
    if w.get("key") is True:
        w["key"] = w["entry"].removeprefix("signal:")
    if w.get("condition") is True:
        w["condition"] = {"name": w["key"]}
    return {"tally": {}, "n": 0, "bytes": 0} | w if "execution_id" in w else w


def _content(packed: bytes) -> bytes:
    """Return the bytes of a packed text; of nil, none."""
    first = packed[0]
    if first == 0xC0:
        return b""
    return packed[1 if first < 0xC0 else 1 + (1 << (first - 0xD9)) :]


def _end_of(packed: bytes, at: int) -> int:
    """Return where the msgpack value at `at` ends. (In Valkey, an execution's history follows its record.)"""
    first = packed[at]
    if first < 0x80 or first >= 0xE0:
        return at + 1
    if first in _FIXED:
        return at + _FIXED[first]
    if first < 0xA0:
        count, at = (first & 0x0F) * (2 if first < 0x90 else 1), at + 1
    elif first < 0xC0:
        return at + 1 + (first & 0x1F)
    else:
        is_text = first in (0xD9, 0xDA, 0xDB)
        width = 1 << (first - 0xD9) if is_text else 2 << (first & 1)
        count = int.from_bytes(packed[at + 1 : at + 1 + width], "big")
        at += 1 + width
        if is_text:
            return at + count
        count *= 2 if first >= 0xDE else 1
    for _ in range(count):
        at = _end_of(packed, at)
    return at


def _follow(moves: dict[str, frozenset[str]], events: list[Event]) -> str:
    """Return the state that the events lead to; assert that each move is legal."""
    assert events[0].name == "created"
    assert not events[0].from_state
    state = events[0].to_state
    for event in events[1:]:
        if event.to_state:
            assert event.from_state == state, event
            assert event.to_state in moves[state], event
            state = event.to_state
    return state
