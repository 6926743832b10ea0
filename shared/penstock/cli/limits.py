"""`penstock budget …` and `penstock quota …`: limits on what executions use, and on how fast they start."""

from datetime import timedelta
from typing import Any, Literal, cast

from cyclopts import App

from penstock.cli.output import clock, emit, emit_json, facts, listing
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import Shell, ShellArgument
from penstock.cli.spec import pair
from penstock.messages.limits import Budget, Quota

budget = App(name="budget", help="Create and show budgets: how much executions may use, together.")
quota = App(name="quota", help="Create and show quotas: how many executions may start, and run at once.")


@budget.command(name="create")
async def create_budget(
    *dimension: str,
    on_hard: Literal["suspend", "fail", "deny"] | None = None,
    reset_every: timedelta | None = None,
    namespace: str | None = None,
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Create a budget; prints its id, for the field budget_ids of executions.

    penstock budget create tokens=800/1000 cents=500

    Parameters
    ----------
    dimension
        NAME=HARD or NAME=SOFT/HARD: how much of a dimension may be used; above SOFT, reports get a warning.
    on_hard
        What happens to an execution whose use passes a hard limit [suspend].
    reset_every
        How often the use is reset to 0, such as 1d or 90m.
    namespace
        The namespace that it belongs to [default].
    idempotency_key
        Repeating the command with the same key and body returns the first id.
    """
    request = {
        "dimensions": dict(_limits(each) for each in dimension),
        "on_hard": on_hard,
        "reset_every_ms": milliseconds(reset_every),
        "namespace": namespace,
        "idempotency_key": idempotency_key,
    }
    made = cast(Budget, await shell.ask("budget.create", request))
    emit_json(made) if shell.json else emit(made.budget_id)


@budget.command(name="get")
async def get_budget(budget_id: str, /, *, shell: ShellArgument) -> None:
    """Show a budget: its use, and whether executions are held back.

    Parameters
    ----------
    budget_id
        The budget's id.
    """
    await _budget(shell, "budget.get", budget_id)


@budget.command
async def replenish(
    budget_id: str, /, *amount: str, idempotency_key: str | None = None, shell: ShellArgument
) -> None:
    """Raise a budget's limits; executions that it held back go on.

    Parameters
    ----------
    budget_id
        The budget's id.
    amount
        NAME=AMOUNT: by how much.
    idempotency_key
        Repeating the command with the same key adds nothing more.
    """
    amounts = {name: _amount(text, each) for each in amount for name, text in [pair(each, "AMOUNT")]}
    await _budget(
        shell, "budget.replenish", budget_id, {"dimensions": amounts, "idempotency_key": idempotency_key}
    )


@budget.command
async def reset(budget_id: str, /, *, shell: ShellArgument) -> None:
    """Reset a budget's use to 0; executions that it held back go on.

    Parameters
    ----------
    budget_id
        The budget's id.
    """
    await _budget(shell, "budget.reset", budget_id)


@budget.command(name="delete")
async def delete_budget(budget_id: str, /, *, shell: ShellArgument) -> None:
    """Delete a budget; executions that it held back go on.

    Parameters
    ----------
    budget_id
        The budget's id.
    """
    await _budget(shell, "budget.delete", budget_id)


@quota.command(name="create")
async def create_quota(
    *,
    per_window: int | None = None,
    window: timedelta | None = None,
    concurrent: int | None = None,
    namespace: str | None = None,
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Create a quota; prints its id, for the field quota_id of executions.

    penstock quota create --per-window 100 --window 1m --concurrent 5

    Parameters
    ----------
    per_window
        How many may start within any --window.
    window
        How long that window is, such as 1m or 24h.
    concurrent
        How many may run at once.
    namespace
        The namespace that it belongs to [default].
    idempotency_key
        Repeating the command with the same key and body returns the first id.
    """
    request = {
        "max_per_window": per_window,
        "window_ms": milliseconds(window),
        "max_concurrent": concurrent,
        "namespace": namespace,
        "idempotency_key": idempotency_key,
    }
    made = cast(Quota, await shell.ask("quota.create", request))
    emit_json(made) if shell.json else emit(made.quota_id)


@quota.command(name="get")
async def get_quota(quota_id: str, /, *, shell: ShellArgument) -> None:
    """Show a quota and its use.

    Parameters
    ----------
    quota_id
        The quota's id.
    """
    await _quota(shell, "quota.get", quota_id)


@quota.command(name="delete")
async def delete_quota(quota_id: str, /, *, shell: ShellArgument) -> None:
    """Delete a quota; from then on it limits nothing.

    Parameters
    ----------
    quota_id
        The quota's id.
    """
    await _quota(shell, "quota.delete", quota_id)


async def _budget(shell: Shell, verb: str, budget_id: str, more: dict[str, Any] | None = None) -> None:
    found = cast(Budget, await shell.ask(verb, {"budget_id": budget_id, **(more or {})}))
    rows = (
        (name, str(use.used), "" if use.soft is None else str(use.soft), str(use.hard))
        for name, use in found.dimensions.items()
    )
    shell.show(found, listing(("dimension", "used", "soft", "hard"), rows))
    if not shell.json:
        told = {
            "on hard": found.on_hard,
            "exhausted": "yes: nothing that lists it is handed out" if found.exhausted else "",
            "suspended": str(found.suspended) if found.suspended else "",
            "free again": clock(found.reset_at),
        }
        shell.console.print(facts(told))


async def _quota(shell: Shell, verb: str, quota_id: str) -> None:
    found = cast(Quota, await shell.ask(verb, {"quota_id": quota_id}))
    window = f"{found.in_window} of {found.max_per_window} in {timedelta(milliseconds=found.window_ms or 0)}"
    at_once = f"{found.running} of {found.max_concurrent}"
    told = {
        "started": window if found.max_per_window is not None else "",
        "running": at_once if found.max_concurrent is not None else "",
        "room again in": str(timedelta(milliseconds=found.retry_after_ms)) if found.retry_after_ms else "",
    }
    shell.show(found, facts({"quota": found.quota_id, **told}))


def _limits(text: str) -> tuple[str, dict[str, int]]:
    """Parse `NAME=HARD` or `NAME=SOFT/HARD`."""
    name, limits = pair(text, "DIMENSION")
    soft, slash, hard = limits.rpartition("/")
    return name, {"hard": _amount(hard, text), **({"soft": _amount(soft, text)} if slash else {})}


def _amount(text: str, said: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageProblem(f"{said!r}: {text!r} is no whole number") from None


def milliseconds(span: timedelta | None) -> int | None:
    """Convert a duration to whole milliseconds, the wire's unit."""
    return None if span is None else round(span / timedelta(milliseconds=1))
