"""Decisions about a service that are made before any request to Ray."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from patience import wait_until
from stand_in_ray import ALLOWED, Starts, session

from runner import launch, local_ray
from runner.local_ray import LocalRay
from runner.paths import Home
from runner.rows import NewRun
from runner.scheduler_actor import elsewhere
from runner.service import ServiceError, bring_up, is_alive, own_cluster, shut_down
from runner.states import Event
from runner.store import Store, open_store

NEW = NewRun(name="r", config="", num_epochs=5)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "first", f"sqlite:///{tmp_path / 'queue.db'}")


@pytest.fixture
def store(home: Home):
    with open_store(home) as store:
        yield store


def begun_and_queued_again(store: Store, home: Home) -> None:
    """Make a queued run that has a folder in this home, whose scheduler has ended in an orderly way."""
    (number,) = store.add([NEW], store.now())
    epoch = store.take_over(store.now(), "here", "1", home=home.record)
    store.claim(epoch, number, store.now(), 1, 1)
    home.run(number, NEW.name).folder.mkdir(parents=True)
    store.end(epoch, number, 1, Event.RELEASE, store.now(), "stopped")
    store.leave(epoch)


def test_another_home_is_refused_while_runs_have_their_folders_in_the_first(
    store: Store, home: Home, tmp_path: Path
) -> None:
    begun_and_queued_again(store, home)
    other = Home(tmp_path / "second", home.database_url)
    said = elsewhere(store, other)
    assert said is not None and "run 1 has saved" in said and f"RUNNER_HOME={home.root}" in said
    assert elsewhere(store, home) is None
    shutil.copytree(home.root, other.root)
    assert elsewhere(store, other) is None


@pytest.mark.parametrize(
    ("first", "second"), [("s3://bucket/a", None), (None, "s3://bucket/a"), ("/a", "/b")]
)
def test_another_storage_is_refused_while_runs_have_begun_in_the_first(
    store: Store, home: Home, tmp_path: Path, first: str | None, second: str | None
) -> None:
    folder = first and (first if "://" in first else f"{tmp_path}{first}")
    before, other = replace(home, storage=folder), replace(home, storage=second)
    begun_and_queued_again(store, before)
    said = elsewhere(store, other)
    assert said is not None and f"RUNNER_STORAGE={before.storage or home.root}," in said
    assert elsewhere(store, before) is None
    if before.remote:
        assert elsewhere(store, replace(before, root=tmp_path / "other host")) is None


def test_another_home_is_fine_where_nothing_has_begun(store: Store, home: Home, tmp_path: Path) -> None:
    store.leave(store.take_over(store.now(), "here", "1", home=str(home.root)))
    store.add([NEW], store.now())
    assert elsewhere(store, Home(tmp_path / "second", home.database_url)) is None


def test_a_cluster_that_beats_is_not_followed_and_one_that_fell_silent_is(store: Store) -> None:
    assert launch._served_elsewhere(store, "here") is None
    epoch = store.take_over(store.now(), "there", "1")
    store.beat(epoch, store.now() - 31)
    assert launch._served_elsewhere(store, "here") is None
    store.beat(epoch, store.now())
    assert launch._served_elsewhere(store, "there") is None
    beating = threading.Timer(0.5, lambda: store.beat(epoch, store.now()))
    beating.start()
    said = launch._served_elsewhere(store, "here")
    beating.join()
    assert said is not None and said.startswith("this queue is served by there")


def test_a_cluster_that_has_just_died_is_waited_for(store: Store) -> None:
    store.beat(store.take_over(store.now(), "there", "1"), store.now() - 29)
    started = time.monotonic()
    assert launch._served_elsewhere(store, "here") is None
    assert 0.5 < time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["ray://head:10001", "local", "head", "head:port", "http://head:6379"])
def test_an_address_that_is_not_of_a_cluster_is_refused_in_one_line(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    for act in (bring_up, shut_down):
        with pytest.raises(ServiceError, match="HOST:PORT") as error:
            act(home, store)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_nobody_at_the_address_is_said_in_one_line_and_at_once(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"no Ray answers at 127.0.0.1:1: Connection refused"):
        bring_up(home, store)


@pytest.fixture
def served(starts: Starts, store: Store) -> LocalRay:
    """A local Ray that stands in for a real one, and a scheduler whose last sign of life is fresh."""
    starts()
    ray = local_ray.ensure()
    store.take_over(store.now(), own_cluster(), "1")
    return ray


@ALLOWED
def test_a_scheduler_is_dead_as_soon_as_its_ray_has_no_node(store: Store, served: LocalRay) -> None:
    assert is_alive(store, store.now())
    os.kill(served.parts[1][0], signal.SIGKILL)  # an agent, which the raylet follows
    wait_until(lambda: not is_alive(store, store.now()), "the end of what it lives on")


@ALLOWED
def test_a_ray_that_has_taken_the_place_of_another_does_not_make_its_scheduler_live(
    store: Store, served: LocalRay
) -> None:
    local_ray.stop(served)
    other = local_ray.ensure()
    assert other.serves
    assert not is_alive(store, store.now())


@ALLOWED
def test_down_ends_a_ray_without_a_node_and_asks_it_nothing(
    home: Home, store: Store, served: LocalRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.service._launch", lambda *_: pytest.fail("Ray was asked"))
    os.kill(served.parts[0][0], signal.SIGKILL)
    wait_until(lambda: not served.serves)
    shut_down(home, store)
    assert local_ray.recorded() is None and not session(served.pid)


@ALLOWED
def test_a_ray_that_loses_its_node_while_it_is_asked_is_ended_by_down_and_made_anew_by_up(
    home: Home, store: Store, served: LocalRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that sleeps replaces the one that joins Ray and waits for an answer for ever."""
    monkeypatch.setattr(sys, "executable", str(home.root.parent / "hangs"))
    (home.root.parent / "hangs").write_text("#!/bin/sh\nexec sleep 600\n")
    (home.root.parent / "hangs").chmod(0o755)
    store.leave(1)
    threading.Timer(0.2, os.kill, [served.parts[0][0], signal.SIGKILL]).start()
    shut_down(home, store)
    assert local_ray.recorded() is None and not session(served.pid)


@ALLOWED
def test_down_says_how_to_end_a_ray_that_does_not_answer_and_ends_it_with_force(
    home: Home, store: Store, served: LocalRay
) -> None:
    store.leave(1)
    with pytest.raises(ServiceError, match=r"no Ray answers at 127.0.0.1:1: .*; `runner down --force` ends"):
        shut_down(home, store)
    assert served.serves
    shut_down(home, store, force=True)
    assert local_ray.recorded() is None and not session(served.pid)
