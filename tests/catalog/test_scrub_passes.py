from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from filefly.catalog.database import Database
from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.scrub_passes import (
    ScrubPass,
    begin_scrub_pass,
    next_scrub_pass,
    save_scrub_pass,
    scrub_passes,
)
from tests.catalog.catalogs import done, opened, plan, seen, store

PLACE = Place(3, 1)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def test_before_the_first_pass_there_is_none(catalog: Database) -> None:
    """No data server was scrubbed yet."""
    assert {} == seen(catalog, scrub_passes)


def test_a_pass_begins_before_every_block(catalog: Database) -> None:
    """It knows how many there are on its data server, of whatever plans."""
    store(catalog, "a", 20, (1, 2))
    plan(catalog, "b", 3, (2, 3))
    begun = done(catalog, begin_scrub_pass, 2, 17, False)
    assert ScrubPass(begun=17, hurry=False, place=FIRST, checked=0, total=4, bad=0, finished=None) == begun
    assert {2: begun} == seen(catalog, scrub_passes)


def test_how_far_a_pass_is_survives_a_restart(tmp_path: Path) -> None:
    """All of it, for each data server apart."""
    with opened(tmp_path) as catalog:
        passes = {server: done(catalog, begin_scrub_pass, server, 10 * server, server == 2) for server in (1, 2)}
        passes[2] = evolve(passes[2], place=PLACE, checked=5, total=9, bad=1, finished="2026-01-02T03:04:05.678Z")
        done(catalog, save_scrub_pass, 2, passes[2])
    with opened(tmp_path) as catalog:
        assert passes == seen(catalog, scrub_passes)


def test_a_new_pass_begins_at_the_beginning(catalog: Database) -> None:
    """Nothing of the last one is left."""
    last = evolve(done(catalog, begin_scrub_pass, 1, 10, True), place=PLACE, checked=5, bad=2, finished="long ago")
    done(catalog, save_scrub_pass, 1, last)
    assert ScrubPass(begun=20) == done(catalog, begin_scrub_pass, 1, 20, False)
    assert {1: ScrubPass(begun=20)} == seen(catalog, scrub_passes)


@pytest.mark.parametrize(("now", "hurry"), [(11, False), (10, True)])
def test_the_end_of_an_older_pass_is_not_that_of_a_newer_one(catalog: Database, now: int, hurry: bool) -> None:
    """Somebody had it begun anew while some blocks were read."""
    older = done(catalog, begin_scrub_pass, 1, 10, False)
    newer = done(catalog, begin_scrub_pass, 1, now, hurry)
    done(catalog, save_scrub_pass, 1, evolve(older, place=PLACE, checked=5, finished="now"))
    assert {1: newer} == seen(catalog, scrub_passes)


def test_the_next_pass_does_not_undo_one_that_somebody_began(catalog: Database) -> None:
    """It was asked for while the last one was looked at."""
    first = done(catalog, next_scrub_pass, 1, None, 10)
    assert ScrubPass(begun=10) == first
    asked_for = done(catalog, begin_scrub_pass, 1, 20, True)
    assert [asked_for] * 2 == [done(catalog, next_scrub_pass, 1, last, 20) for last in (None, first)]
    assert ScrubPass(begun=30) == done(catalog, next_scrub_pass, 1, asked_for, 30)
