"""Random programs of durable calls: how hypothesis makes them, how a handler runs them, and what must come of them.

A program is a list of operations, as plain JSON, so that it is the input of its execution. Each call has a name of its
own. `Reference` is the plain interpreter: it knows nothing of journals, workers or crashes.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from penstock import ChildFailed, Fail, Retries, StepFailed, Task, Worker

Op = dict[str, Any]
Block = list[Op]

WORST_MS: Final = 5
LONG_MS: Final = 60

# How a step that fails at first waits for its next try: in memory, or suspended.
_BACKOFFS: Final = (0.01, 60.0)
_SLEEPS: Final = (0.0, 0.01, 5.0, 3600.0)

ALWAYS: Final = 1000

steps = st.builds(
    lambda fails, more, backoff, ms, sync: {
        "op": "step",
        "fails": fails,  # its first tries fail, whoever makes them
        "tries": 2 if fails == ALWAYS else fails + 1 + more,
        "backoff": backoff,
        "ms": ms,
        "sync": sync,
    },
    st.sampled_from([0, 0, 0, 0, 1, 2, ALWAYS]),
    st.integers(0, 1),
    st.sampled_from(_BACKOFFS),
    st.integers(0, WORST_MS),
    st.booleans(),
)
sleeps = st.builds(lambda seconds: {"op": "sleep", "seconds": seconds}, st.sampled_from(_SLEEPS))
signals = st.just({"op": "signal"})
children = st.builds(lambda fails: {"op": "child", "fails": fails}, st.sampled_from([False, False, True]))
calls = st.one_of(steps, steps, steps, sleeps, signals, children)
states = st.just({"op": "state"})


def _plain_step(fails: int, ms: int) -> Op:
    return {"op": "step", "fails": fails, "tries": 1, "backoff": 0.01, "ms": ms, "sync": False}


def _cut_short(before: Block, bodies: list[Block], place: int) -> Op:
    """Return branches of which one fails soon, while another one is in the middle of a long step."""
    slow = [_plain_step(0, LONG_MS)]
    bodies = [*(body + slow for body in bodies)]
    bodies.insert(place, [*before, _plain_step(ALWAYS, 0)])
    return {"op": "try", "body": [{"op": "until_failure", "bodies": bodies}]}


def _nested(inner: st.SearchStrategy[Block], *, races: bool) -> st.SearchStrategy[Op]:
    branches = st.lists(inner, min_size=1, max_size=3)
    kinds = [
        st.builds(lambda body: {"op": "try", "body": body}, inner),
        st.builds(lambda bodies: {"op": "parallel", "bodies": bodies}, branches),
        st.builds(lambda bodies: {"op": "until_failure", "bodies": bodies}, branches),
        st.builds(
            _cut_short,
            st.lists(steps, max_size=1),
            st.lists(inner, min_size=1, max_size=2),
            st.integers(0, 1),
        ),
    ]
    if races:
        kinds.append(st.builds(lambda bodies: {"op": "first", "bodies": bodies}, branches))
    return st.one_of(kinds)


leaves = st.lists(st.one_of(calls, calls, states), min_size=1, max_size=3)
twigs = st.lists(st.one_of(calls, _nested(leaves, races=True)), min_size=1, max_size=2)
programs = st.lists(
    st.one_of(
        calls,
        _nested(twigs, races=True),
        st.just({"op": "compensate"}),
        states,
        st.builds(lambda times: {"op": "repeat", "times": times}, st.integers(2, 3)),
    ),
    min_size=1,
    max_size=5,
).map(lambda block: named(block))


def named(block: Block, prefix: str = "") -> Block:
    """Return a copy of a block in which every operation has a name of its own."""
    made: Block = []
    for place, op in enumerate(block):
        name = f"{prefix}{op['op'][0]}{place}"
        op = {**op, "name": name}
        if "body" in op:
            op["body"] = named(op["body"], f"{name}.")
        if "bodies" in op:
            op["bodies"] = [named(body, f"{name}.{n}.") for n, body in enumerate(op["bodies"])]
        made.append(op)
    return made


def each_op(block: Block) -> list[Op]:
    """Return all operations of a block, at any depth."""
    found: list[Op] = []
    for op in block:
        found.append(op)
        for body in [*op.get("bodies", []), op.get("body", [])]:
            found += each_op(body)
    return found


# The durable side.

worker = Worker(concurrency=8, grace=5.0)


@worker.handler("child")
async def child(name: str, fails: bool) -> str:
    if fails:
        raise Fail("no", "child_no")
    return name


tries: Counter[tuple[str, str]] = Counter()
"""How often a step of an execution has begun, in whatever worker."""


@worker.handler("program", keep_warm=0.05)
async def program(task: Task, block: Block) -> list[Any]:
    return await _run(task, block)


async def _run(task: Task, block: Block) -> list[Any]:
    values: list[Any] = []
    for op in block:
        name = op["name"]
        if op["op"] == "compensate":
            task.compensate(name, _effect, name, 0)
        elif op["op"] == "state":
            task.state["stage"] = name
        elif op["op"] == "repeat":
            values.append([await task.step(name, _effect, f"{name}-{n}", 0) for n in range(op["times"])])
        elif op["op"] == "try":
            try:
                values.append(await _run(task, op["body"]))
            except (StepFailed, ChildFailed) as error:
                values.append(f"caught {error.category}")
        elif op["op"] in ("parallel", "until_failure"):
            failures = "wait" if op["op"] == "parallel" else "cancel"
            branches = [_branch(task, body) for body in op["bodies"]]
            values.append(list(await task.parallel(*branches, failures=failures)))
        elif op["op"] == "first":
            raced = {f"b{n}": _branch(task, body) for n, body in enumerate(op["bodies"])}
            won = await task.first(name, **raced)
            values.append([won.branch, won.value])
        else:
            values.append(await _call(task, op))
    return values


def _branch(task: Task, body: Block) -> Any:
    """Return what runs side by side: the call itself, where it is only one, else a coroutine."""
    return _call(task, body[0]) if is_call(body) else _run(task, body)


def is_call(body: Block) -> bool:
    return len(body) == 1 and body[0]["op"] in ("step", "sleep", "child")


def _call(task: Task, op: Op) -> Any:
    name = op["name"]
    if op["op"] == "step":
        retry = Retries(op["tries"], backoff=op["backoff"])
        function = _sync_step if op["sync"] else _step
        return task.step(name, function, task.execution_id, name, op["fails"], op["ms"], retry=retry)
    if op["op"] == "sleep":
        return task.sleep(name, timedelta(seconds=op["seconds"]))
    if op["op"] == "child":
        return task.child(name, "child", {"name": name, "fails": op["fails"]}, type=str)
    return _signal(task, name)


async def _signal(task: Task, name: str) -> Any:
    return (await task.wait_signal(name)).payload


async def _effect(name: str, ms: int) -> str:
    await asyncio.sleep(ms / 1000)
    return name


async def _step(execution_id: str, name: str, fails: int, ms: int) -> str:
    result = _sync_step(execution_id, name, fails, ms)
    await asyncio.sleep(ms / 1000)
    return result


def _sync_step(execution_id: str, name: str, fails: int, ms: int) -> str:
    tries[execution_id, name] += 1
    if tries[execution_id, name] <= fails:
        raise ConnectionError("not yet")
    return name


# The plain interpreter.


class Failed(Exception):
    """A program's call has failed, with this category."""

    def __init__(self, category: str) -> None:
        super().__init__(category)
        self.category = category


class Cut(NamedTuple):
    """A `parallel(failures="cancel")` that has given up branches: how many such are around them, and their calls."""

    depth: int
    left: list[str]


class Reference:
    """What must come of a program: its result or its failure, which steps run how often, and what is undone.

    `winners`: of each race, the branch that has won; `cuts`: which branches were given up when another had failed, for
    both is nobody's to foretell.
    """

    def __init__(self, winners: Mapping[str, str], cuts: Sequence[Cut]) -> None:
        self.steps: dict[str, int] = {}
        """By key, how often a step is tried when no worker dies."""
        self.undos: list[str] = []
        self.stage: str | None = None
        """What `task.state` shows at last, if no branches that ran side by side may have shown something after it."""
        self._winners, self._cuts = winners, cuts
        self._depth = 0

    def run(self, block: Block) -> tuple[str, Any]:
        """Return the state in which the program ends, and its result or the category of its failure."""
        try:
            return "completed", self._block(block)
        except Failed as failure:
            return "failed", failure.category

    def _block(self, block: Block) -> list[Any]:
        return [value for op in block for value in self._op(op)]

    def _op(self, op: Op) -> list[Any]:
        name = op["name"]
        match op["op"]:
            case "compensate":
                self.undos.insert(0, f"undo:{name}")
                return []
            case "state":
                self.stage = name
                return []
            case "repeat":
                for n in range(1, op["times"] + 1):
                    self.steps[f"step:{name}" + (f"@{n}" if n > 1 else "")] = 1
                return [[f"{name}-{n}" for n in range(op["times"])]]
            case "step":
                self.steps[f"step:{name}"] = min(op["fails"] + 1, op["tries"])
                if op["fails"] == ALWAYS:
                    raise Failed("connection_error")
                return [name]
            case "sleep":
                return [None]
            case "signal":
                return [f"sent {name}"]
            case "child":
                if op["fails"]:
                    raise Failed("child_no")
                return [name]
            case "try":
                try:
                    return [self._block(op["body"])]
                except Failed as failure:
                    return [f"caught {failure.category}"]
            case "parallel":
                return [self._parallel(op["bodies"])]
            case "until_failure":
                return [self._until_failure(op)]
            case _:
                winner = self._winners[f"first:{name}"]
                value = self._branch(op["bodies"][int(winner[1:])])
                self._side_by_side(op["bodies"])
                return [[winner, value]]

    def _side_by_side(self, bodies: list[Block]) -> None:
        if any(op["op"] == "state" for body in bodies for op in each_op(body)):
            self.stage = None

    def _parallel(self, bodies: list[Block]) -> list[Any]:
        values: list[Any] = []
        failures: list[Failed] = []
        for body in bodies:
            try:
                values.append(self._branch(body))
            except Failed as failure:
                failures.append(failure)
        self._side_by_side(bodies)
        if failures:
            raise failures[0]
        return values

    def _until_failure(self, op: Op) -> list[Any]:
        """Interpret the branches that were not given up: all, or those that ended well and the one that failed."""
        self._depth += 1
        try:
            kept = [body for n, body in enumerate(op["bodies"]) if not self._given_up(f"{op['name']}.{n}.")]
            whole = len(kept) == len(op["bodies"])
            values: list[Any] = []
            failures: list[Failed] = []
            for body in kept:
                try:
                    values.append(self._branch(body))
                except Failed as failure:
                    failures.append(failure)
            assert len(failures) <= 1 if whole else len(failures) == 1, f"{op['name']}: who has failed?"
        finally:
            self._depth -= 1
        self._side_by_side(op["bodies"])
        if failures:
            raise failures[0]
        return values

    def _given_up(self, prefix: str) -> bool:
        return any(
            cut.depth == self._depth and key.partition(":")[2].startswith(prefix)
            for cut in self._cuts
            for key in cut.left
        )

    def _branch(self, body: Block) -> Any:
        values = self._block(body)
        return values[0] if is_call(body) else values
