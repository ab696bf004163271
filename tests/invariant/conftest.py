"""One process group for all tests that need the training engine."""

from collections.abc import Iterator

import pytest

from r2ec.recpo.engine import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A world of one process."""
    world = World()
    yield world
    world.close()
