"""The soak's checker finds every kind of broken promise: a real run's trail is clean, and each falsified one is not."""

import asyncio
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import Client
from running_penstock import WAIT_S, RunningPenstock
from soak import journal as journals
from soak.checker import check
from soak.ending import Ending
from soak.journal import Journal, Tail
from soak.load import Load
from soak.worker import make

HELD = ("leased", "running")
LOAD_S = 2.0


class Trail:
    """A recorded run that a test falsifies: its events as dicts, its dead letters and its journal."""

    def __init__(self, bodies: list[bytes], dead: list[str], journal: list[dict[str, Any]]) -> None:
        self.bodies = bodies
        self.events: list[dict[str, Any]] = [json.loads(body) for body in bodies]
        self.dead = dead
        self.journal = journal

    def copy(self) -> "Trail":
        other = Trail([], list(self.dead), copy.deepcopy(self.journal))
        other.events = copy.deepcopy(self.events)
        return other

    def messages(self, *, renumber: bool = True) -> list[tuple[int, bytes]]:
        """Return the stream's messages, chained anew. With `renumber`, the numbers of the events have no gap either.

        So a falsification is found for what it is, and not because a hash or number does not fit.
        """
        numbers: dict[tuple[str, str], int] = {}
        previous, messages = "0" * 64, []
        for place, event in enumerate(self.events, 1):
            key = event["entity"], event["id"]
            numbers[key] = numbers.get(key, 0) + 1
            facts = {name: value for name, value in event.items() if name not in ("prev_hash", "hash")}
            if renumber:
                facts["seq"] = numbers[key]
            form = json.dumps(facts, separators=(",", ":"), ensure_ascii=False)
            digest = hashlib.sha256((previous + form).encode()).hexdigest()
            body = f'{form[:-1]},"prev_hash":"{previous}","hash":"{digest}"}}'
            messages.append((place, body.encode()))
            previous = digest
        return messages

    def kinds(self, *, renumber: bool = True) -> set[str]:
        return check(self.messages(renumber=renumber), self.dead, self.journal).kinds

    # -- places in the trail

    def find(self, entity: str, event: str, **also: Any) -> int:
        """Return the place of the first such event whose data or fields are like `also`."""
        for place, each in enumerate(self.events):
            if (each["entity"], each["event"]) == (entity, event) and all(
                (each["data"] or {}).get(name, each.get(name)) == value for name, value in also.items()
            ):
                return place
        raise AssertionError(f"the recorded run has no {entity} {event} {also}")

    def due(self) -> int:
        """Return the place of the event `created` of an execution that a schedule made."""
        return next(
            place
            for place, each in enumerate(self.events)
            if each["event"] == "created" and "schedule_id" in (each["data"] or {})
        )

    def two_at_once(self) -> tuple[str, str]:
        """Return two executions that were held at the same time, at two different instants at least."""
        begun: dict[str, int] = {}
        for each in self.events:
            if each["entity"] != "execution":
                continue
            if each["to"] in HELD and each["id"] not in begun:
                begun[each["id"]] = each["at"]
            elif each["from"] in HELD and each["to"] not in HELD and each["id"] in begun:
                at = begun.pop(each["id"])
                for other, since in begun.items():
                    if max(at, since) < each["at"]:
                        return each["id"], other
        raise AssertionError("the recorded run has no two executions that were held at once")

    def line(self, what: str, **also: Any) -> dict[str, Any]:
        return next(each for each in self.journal if each["what"] == what and also.items() <= each.items())

    def after(self, place: int, **changes: Any) -> dict[str, Any]:
        """Put a changed copy of the event at `place` behind it."""
        self.events.insert(place + 1, {**copy.deepcopy(self.events[place]), **changes})
        return self.events[place + 1]

    def lease(self) -> int:
        """Return the place where a lease of an execution begins that ends as completed."""
        done = self.events[self.find("execution", "completed")]["id"]
        return next(
            place
            for place, each in enumerate(self.events)
            if each["id"] == done and each["to"] in HELD and each["from"] not in HELD
        )


@pytest.fixture(scope="module")
def recorded(nats_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Trail:
    """Run the soak's load without faults for a few seconds."""
    folder = tmp_path_factory.mktemp("soak")
    return asyncio.run(record(nats_url, valkey_url, folder))


async def record(nats_url: str, valkey_url: str, folder: Path) -> Trail:
    async with RunningPenstock.open(nats_url, valkey_url, partitions=2) as penstock:
        worker = make(nats_url, Journal(folder / "worker.jsonl"), "w1", penstock.root)
        working = asyncio.create_task(worker.run(handle_signals=False))
        async with await Client.connect(nats_url, root=penstock.root) as client:
            load = Load(client, Journal(folder / "load.jsonl"), Tail(folder), seed=1, rate=50)
            ending = Ending(client)
            await load.prepare()
            loading = asyncio.create_task(load.run())
            async with asyncio.timeout(WAIT_S):
                await asyncio.sleep(LOAD_S)
                await load.has_all.wait()  # on a slow machine, the rare ones come late
            load.stop()
            assert await ending.wait(loading, WAIT_S, print) is not None, ending.open()
            await load.clean_up()
        worker.stop()
        await working
        return Trail([body for _, body in ending.messages], ending.dead_ids, journals.read(folder))


FALSIFICATIONS: list[Any] = []


def falsifies(kind: str) -> Callable[[Callable[[Trail], None]], Callable[[Trail], None]]:
    """Register a function that falsifies a trail, so that the checker must find a problem of this kind."""

    def register(falsify: Callable[[Trail], None]) -> Callable[[Trail], None]:
        FALSIFICATIONS.append(pytest.param(kind, falsify, id=f"{kind}-{falsify.__name__}"))
        return falsify

    return register


@pytest.fixture
def trail(recorded: Trail) -> Trail:
    return recorded.copy()


# -- executions


@falsifies("illegal_move")
def completed_without_a_lease(trail: Trail) -> None:
    begun = trail.lease()
    id = trail.events[begun]["id"]
    trail.events = [each for each in trail.events if each["id"] != id or each["to"] not in HELD]


@falsifies("illegal_move")
def goes_on_after_its_end(trail: Trail) -> None:
    place = trail.find("execution", "completed")
    trail.after(place, **{"event": "resumed", "from": "completed", "to": "ready"})


@falsifies("two_outcomes")
def completed_and_failed(trail: Trail) -> None:
    trail.after(
        trail.find("execution", "completed"), **{"event": "failed", "from": "running", "to": "failed"}
    )


@falsifies("two_outcomes")
def completed_twice(trail: Trail) -> None:
    trail.after(trail.find("execution", "completed"))


@falsifies("not_terminal")
def never_ended(trail: Trail) -> None:
    del trail.events[trail.find("execution", "completed")]


@falsifies("lost")
def accepted_and_gone(trail: Trail) -> None:
    id = trail.line("execution")["id"]
    trail.events = [each for each in trail.events if each["id"] != id]


@falsifies("lease_overlap")
def leased_while_another_holds_it(trail: Trail) -> None:
    trail.after(trail.lease(), actor="worker:w2")


@falsifies("lease_overlap")
def completed_by_another(trail: Trail) -> None:
    trail.events[trail.find("execution", "completed")]["actor"] = "worker:w2"


@falsifies("lease_overlap")
def leased_before_the_last_lease_ended(trail: Trail) -> None:
    id = trail.events[trail.find("execution", "retry_wait")]["id"]
    for event in trail.events:
        if event["id"] == id and event["event"] == "retry_wait":
            event["at"] += 3_600_000


@falsifies("lease_epoch")
def an_epoch_left_out(trail: Trail) -> None:
    event = trail.events[trail.lease()]
    event["data"] = {**(event["data"] or {}), "lease_epoch": 7}


@falsifies("outcome_unknown")
def another_worker_was_answered(trail: Trail) -> None:
    trail.line("outcome")["worker"] = "w2"


@falsifies("outcome_unknown")
def an_outcome_of_a_lost_lease_was_taken(trail: Trail) -> None:
    trail.line("outcome")["epoch"] += 1


@falsifies("idempotency_split")
def one_key_made_two(trail: Trail) -> None:
    one, other = [each for each in trail.journal if each.get("key")][:2]
    other["key"] = one["key"]
    other["id"] = next(each["id"] for each in trail.journal if each.get("key") and each["id"] != one["id"])


@falsifies("unique_overlap")
def two_with_one_unique_key(trail: Trail) -> None:
    one, other = trail.two_at_once()
    trail.journal += [{"what": "execution", "id": id, "unique": "same"} for id in (one, other)]


@falsifies("quota_passed")
def two_leases_under_a_quota_of_one(trail: Trail) -> None:
    trail.journal += [{"what": "execution", "id": id, "quota": "q", "most": 1} for id in trail.two_at_once()]


@falsifies("children_open")
def a_parent_goes_on_before_its_child_has_ended(trail: Trail) -> None:
    place = trail.find("execution", "resumed", reason="children")
    child = trail.events[trail.find("execution", "created", parent_id=trail.events[place]["id"])]["id"]
    trail.events.insert(place, trail.events.pop(trail.find("execution", "completed", id=child)))


# -- flows


@falsifies("illegal_move")
def a_flow_finishes_before_it_starts(trail: Trail) -> None:
    del trail.events[trail.find("flow", "started")]


@falsifies("two_outcomes")
def a_flow_ends_twice(trail: Trail) -> None:
    trail.after(trail.find("flow", "finished"), **{"event": "failed", "from": "running", "to": "failed"})


@falsifies("not_terminal")
def a_flow_never_ends(trail: Trail) -> None:
    del trail.events[trail.find("flow", "finished")]


@falsifies("lost")
def a_flow_accepted_and_gone(trail: Trail) -> None:
    trail.journal.append({"what": "flow", "id": "0-unknown"})


# -- what was published


@falsifies("signal_lost")
def a_signal_without_effect(trail: Trail) -> None:
    line = trail.line("signal")
    trail.events = [each for each in trail.events if (each["data"] or {}).get("signal_id") != line["id"]]


@falsifies("signal_twice")
def a_signal_recorded_twice(trail: Trail) -> None:
    trail.after(trail.find("waitpoint", "signal_recorded"))


@falsifies("signal_twice")
def a_signal_counted_twice(trail: Trail) -> None:
    trail.events[trail.find("waitpoint", "satisfied")]["data"]["signals"] += 1


@falsifies("event_lost")
def an_event_that_woke_nobody(trail: Trail) -> None:
    trail.events[trail.find("flow", "resumed", reason="external_event")]["data"]["event_id"] = "other"


@falsifies("event_twice")
def an_event_that_woke_a_flow_twice(trail: Trail) -> None:
    trail.after(trail.find("flow", "resumed", reason="external_event"))


@falsifies("observation_lost")
def an_observation_without_effect(trail: Trail) -> None:
    del trail.events[trail.find("flow", "observed")]


@falsifies("observation_twice")
def an_observation_applied_twice(trail: Trail) -> None:
    trail.after(trail.find("flow", "observed"))


@falsifies("trigger_lost")
def a_message_that_triggered_nothing(trail: Trail) -> None:
    trail.journal.append({"what": "triggered", "id": "unheard"})


@falsifies("trigger_twice")
def a_message_that_triggered_two(trail: Trail) -> None:
    trail.journal.remove(trail.line("triggered"))


# -- schedules and budgets


@falsifies("due_twice")
def two_executions_for_one_due_time(trail: Trail) -> None:
    place = trail.due()
    trail.after(place, id=trail.events[place]["id"] + "x")


@falsifies("due_missing")
def no_execution_for_a_due_time(trail: Trail) -> None:
    id = trail.events[trail.due()]["id"]
    trail.events = [each for each in trail.events if each["id"] != id]


@falsifies("due_unexpected")
def an_execution_for_no_due_time(trail: Trail) -> None:
    trail.events[trail.due()]["data"]["due_at"] += 1


@falsifies("not_terminal")
def a_schedule_that_has_not_finished(trail: Trail) -> None:
    del trail.events[trail.find("schedule", "finished")]


@falsifies("lost")
def a_schedule_accepted_and_gone(trail: Trail) -> None:
    trail.journal.append({"what": "schedule", "id": "0-unknown"})


@falsifies("budget_off")
def a_total_that_does_not_add_up(trail: Trail) -> None:
    trail.events[trail.find("budget", "usage")]["data"]["used"]["tokens"] += 1


@falsifies("budget_off")
def a_reset_of_another_total(trail: Trail) -> None:
    del trail.events[trail.find("budget", "usage")]


@falsifies("usage_twice")
def a_report_that_counts_twice(trail: Trail) -> None:
    trail.after(trail.find("budget", "usage"))


@falsifies("usage_lost")
def a_report_that_does_not_count(trail: Trail) -> None:
    trail.line("usage")["amounts"]["tokens"] += 1000


def test_a_real_run_is_clean_and_has_everything(recorded: Trail) -> None:
    original = [(n, body) for n, body in enumerate(recorded.bodies, 1)]
    findings = check(original, recorded.dead, recorded.journal)
    assert findings.problems == []
    assert not [what for what, count in findings.counts.items() if not count and what != "dead letters"]
    assert recorded.kinds() == set(), "chaining it anew changes nothing"


def test_what_was_edited_removed_or_reordered_breaks_the_chain(recorded: Trail) -> None:
    whole = list(enumerate(recorded.bodies, 1))

    def kinds(messages: list[tuple[int, bytes]]) -> set[str]:
        return check(messages, recorded.dead, recorded.journal).kinds

    edited = whole.copy()
    edited[9] = (10, whole[9][1].replace(b'"actor":', b'"actor": ', 1))
    assert kinds(edited) == {"chain_broken"}
    closed_up = [(n, body) for n, (_, body) in enumerate(whole[:9] + whole[10:], 1)]
    assert "chain_broken" in kinds(closed_up)
    swapped = whole.copy()
    swapped[9], swapped[10] = (10, whole[10][1]), (11, whole[9][1])
    assert "chain_broken" in kinds(swapped)


def test_a_gap_and_a_repeat_in_an_entitys_numbers(trail: Trail) -> None:
    place = trail.find("execution", "progress")
    taken = trail.events.pop(place)
    assert trail.kinds(renumber=False) == {"event_missing"}
    trail.events[place:place] = [taken, taken]
    assert trail.kinds(renumber=False) == {"event_repeated"}


def test_a_lease_begun_in_one_step_is_one_event(trail: Trail) -> None:
    """Both forms are legal: `leased` then `started`, or one `started` that says so."""
    last: dict[str, dict[str, Any]] = {}
    kept: list[dict[str, Any]] = []
    for event in trail.events:
        before = last.get(event["id"], {})
        if event["event"] == "started" and before.get("event") == "leased":
            kept.remove(before)
            event |= {"from": "ready", "data": {**event["data"], "via": "leased"}}
        if event["to"]:
            last[event["id"]] = event
        kept.append(event)
    trail.events = kept
    assert trail.kinds() == set()
    start = trail.events[trail.find("execution", "started", **{"from": "ready"})]
    del start["data"]["via"]
    assert trail.kinds() == {"illegal_move"}


def test_a_dead_letter_accounts_for_what_had_no_effect(trail: Trail) -> None:
    line = trail.line("observation")
    lost = line | {"run": "nowhere", "message": "dead"}
    trail.journal.append(lost)
    assert trail.kinds() == {"observation_lost"}
    trail.dead.append("dead")
    assert trail.kinds() == set()


@pytest.mark.parametrize(("kind", "falsify"), FALSIFICATIONS)
def test_a_falsified_run_is_found_out(trail: Trail, kind: str, falsify: Callable[[Trail], None]) -> None:
    falsify(trail)
    assert kind in trail.kinds()
