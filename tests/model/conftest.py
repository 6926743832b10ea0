"""The Valkey of the models."""

from collections.abc import Iterator

import pytest
from base_of_models import Model
from redis import Redis

import servers


@pytest.fixture(scope="module", autouse=True)
def valkey() -> Iterator[None]:
    """Start a server for each module: thousands of steps need no disk."""
    with servers.valkey_server() as url:
        with Redis.from_url(url) as redis:
            redis.config_set("appendonly", "no")
        Model.valkey_url = url
        yield
