"""The errors that verbs are said to answer. That none is missing, the contract tests see (their conftest.py)."""

from functools import cache
from pathlib import Path

import pytest

from penstock import refusals
from penstock.errors import TABLE
from penstock.refusals import ANY, errors_of
from penstock.verbs import VERBS, Verb

REPOSITORY = Path(__file__).parents[2]


def test_verbs_and_codes_exist_and_are_told_once() -> None:
    assert refusals._OWN.keys() <= VERBS.keys()
    for name, codes in refusals._OWN.items():
        own = codes.split()
        assert len(own) == len(set(own)), name
        assert set(own) <= TABLE.keys() - ANY, name
    assert TABLE.keys() == ANY.union(*(errors_of(verb) for verb in VERBS.values()))


@cache
def raised_by(service: str) -> str:
    """Return the text of what a service runs: its own code, what services share, and the state machine."""
    folders = ("lua", f"services/penstock_{service.replace('-', '_')}", "shared/penstock/machine")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.*")]
    return "".join(path.read_text() for path in files if path.suffix in (".lua", ".py"))


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_the_service_of_a_verb_knows_them(verb: Verb) -> None:
    assert [code for code in errors_of(verb) if code not in raised_by(verb.service)] == []
