"""What dead processes have left: sent once, under its own name, beside what is new; whatever is wrong with it, never a loop."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START
from agentscope.pipeline.spool import database as spoolfile
from agentscope.pipeline.spool.codec import pack
from agentscope.pipeline.spool.database import SpoolFile
from agentscope.pipeline.spool.recovery import MOST_RATE, SCAN, UNREADABLE
from agentscope.protocols.base import BUSY, UNAUTHORIZED, Dropped, Outcome
from tests.support.spools import LONG, Backend, Bench, connected, event, kill, left, recover


def leave(directory: Path, number: int = 5, **options) -> Bench:
    """A process that dies with so many events on disk."""
    dead = Bench(directory, **options)
    dead.put(number)
    dead.store()
    kill(dead)
    return dead


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_what_a_dead_process_left_is_delivered_once_and_its_file_is_gone(tmp_path: Path, batch_size: int) -> None:
    dead = leave(tmp_path, 20)
    heir = Bench(tmp_path, batch_size=batch_size)
    recovery = recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)
    assert heir.backend.order == sorted(heir.backend.order)
    assert (recovery.recovered, left(tmp_path)) == (20, [])


def test_a_living_session_is_left_alone_and_so_is_an_own_one(tmp_path: Path) -> None:
    living = Bench(tmp_path)
    living.put(3)
    living.store()
    other = Bench(tmp_path, living.backend)
    other.put(3)
    other.store()
    recover(other)
    assert not living.backend.stored
    living.send_all()
    other.send_all()
    assert living.backend.stored == dict.fromkeys(living.ids() | other.ids(), 1)


def test_an_heir_that_dies_too_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    dead = leave(tmp_path, 30)
    backend = Backend()
    for number in range(4):
        heir = Bench(tmp_path, backend)
        heir.spooling.recovery.step(1.0, 200.0, lambda: 200.0)
        if number == 2:  # killed between the answer and the deletion
            with patch.object(SpoolFile, "write", side_effect=sqlite3.OperationalError("disk I/O error")):
                heir.now += LONG
                heir.spooling.recovery.step(1.0, heir.now, lambda: heir.now)
        kill(heir)
    recover(Bench(tmp_path, backend))
    assert set(backend.stored) == dead.ids()
    assert left(tmp_path) == []


def test_an_heir_that_ends_in_order_leaves_the_rest_too(tmp_path: Path) -> None:
    dead = leave(tmp_path, 25)
    heir = Bench(tmp_path)
    heir.spooling.recovery.step(1.0, heir.now, lambda: heir.now)
    heir.end()
    assert len(heir.backend.stored) == 10
    recover(Bench(tmp_path, heir.backend))
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)


def test_failures_are_tried_again_and_a_lost_answer_stores_nothing_twice(tmp_path: Path) -> None:
    dead = leave(tmp_path, 25)
    heir = Bench(tmp_path)
    backend = heir.backend
    backend.plan = [backend.fail, backend.lose_answer, backend.fail, backend.deliver, backend.lose_answer]
    recovery = recover(heir)
    assert set(backend.stored) == dead.ids()
    assert (recovery.recovered, recovery.ledger.duplicates, left(tmp_path)) == (25, 20, [])


def test_what_the_backend_rejects_is_given_up_alone(tmp_path: Path) -> None:
    dead = leave(tmp_path, 5)
    heir = Bench(tmp_path)

    def reject_third(batch):
        kept = [event.seq for event in batch.events if event.seq != 3]
        heir.backend.keep(batch, kept)
        return Outcome(delivered=kept, dropped=[Dropped(3, "rejected", "")])

    heir.backend.plan = [reject_third]
    recovery = recover(heir)
    assert set(heir.backend.stored) == dead.ids([1, 2, 4, 5])
    assert (recovery.ledger.dropped(), left(tmp_path)) == ({"rejected": 1}, [])


def test_old_events_take_half_of_the_time_at_most_and_so_many_a_second(tmp_path: Path) -> None:
    leave(tmp_path, 300)
    heir = Bench(tmp_path, batch_size=100)
    recovery = heir.spooling.recovery
    recovery.step(1.0, 50.0, lambda: 53.0)
    assert recovery.wait(53.0) == 3.0
    recovery.step(1.0, 60.0, lambda: 60.0)
    assert recovery.wait(60.0) == pytest.approx(100 / MOST_RATE)


def test_an_empty_directory_is_looked_into_once_in_a_while(tmp_path: Path) -> None:
    recovery = Bench(tmp_path).spooling.recovery
    assert recovery.step(1.0, 50.0, lambda: 50.0) is None
    assert recovery.wait(50.0) == SCAN


def test_a_directory_that_is_not_there_or_not_to_be_trusted_is_no_reason_to_stumble(tmp_path: Path) -> None:
    assert Bench(tmp_path / "nowhere").spooling.recovery.step(1.0, 50.0, lambda: 50.0) is None
    leave(tmp_path / "spool")
    (tmp_path / "spool").chmod(0o777)  # whoever may write there might have made these events up
    heir = Bench(tmp_path / "spool")
    recover(heir)
    assert not heir.backend.stored


def test_parked_events_of_a_dead_process_are_sent_at_the_end_as_they_are(tmp_path: Path) -> None:
    dead = leave(tmp_path, 15)
    heir = Bench(tmp_path)
    backend = heir.backend

    def park(batch):
        if batch.closing:
            kept = [event for part in batch.parked.values() for event in part] + list(batch.events)
            seqs = sorted(event.seq for event in kept)
            backend.keep(batch, seqs)
            return Outcome(delivered=seqs)
        return Outcome(parked=[event.seq for event in batch.events])

    backend.plan = [park] * 100
    recovery = recover(heir)
    assert set(backend.stored) == dead.ids()
    assert (recovery.recovered, left(tmp_path)) == (15, [])


def test_a_run_that_a_dead_process_began_comes_in_its_order(tmp_path: Path) -> None:
    dead = Bench(tmp_path)
    for number in range(4):
        dead.put(1, run_id=f"run-{number}", type=RUN_START)
        dead.put(7, run_id=f"run-{number}")
        dead.put(1, run_id=f"run-{number}", type=RUN_END)
    dead.store()
    kill(dead)
    heir = Bench(tmp_path, batch_size=5)
    heir.backend.protocol = "classic"
    heir.backend.plan = [heir.backend.fail, heir.backend.deliver] * 4
    recover(heir)
    assert heir.backend.order == sorted(dead.ids())


def test_another_keys_events_are_left_alone_until_that_key_is_refused(tmp_path: Path) -> None:
    dead = leave(tmp_path, 5, key_mark="wrong")
    heir = Bench(tmp_path, key_mark="right")
    recover(heir)
    assert (heir.backend.stored, dead.rows()) == ({}, [1, 2, 3, 4, 5])
    old = Bench(tmp_path, key_mark="wrong")
    old.backend.plan = [lambda batch: Outcome(problem="HTTP 401", kind=UNAUTHORIZED)]
    old.spooling.recovery.step(1.0, old.now, lambda: old.now)
    kill(old)
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)
    assert left(tmp_path) == []


def test_another_destinations_events_are_left_alone(tmp_path: Path) -> None:
    dead = leave(tmp_path, 5, destination="OTLPExporter http://elsewhere")
    before = left(tmp_path)
    heir = Bench(tmp_path)
    recover(heir)
    assert (heir.backend.stored, left(tmp_path)) == ({}, before)
    assert dead.rows() == [1, 2, 3, 4, 5]


def test_what_is_not_wanted_is_not_opened_again_before_it_has_changed(tmp_path: Path) -> None:
    leave(tmp_path, 5, key_mark="other")
    heir = Bench(tmp_path)
    with patch.object(SpoolFile, "open", side_effect=SpoolFile.open) as opened:
        for _ in range(5):
            recover(heir)
    assert opened.call_count == 1


def foreign(path: Path) -> None:
    with connected(path) as db:
        db.execute("CREATE TABLE precious (x)")
        db.commit()


def future(path: Path) -> None:
    with connected(path) as db:
        db.execute("CREATE TABLE events (x)")
        db.execute(f"PRAGMA application_id={spoolfile.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={spoolfile.VERSION + 1}")
        db.commit()


@pytest.mark.parametrize("make", [foreign, future])
def test_a_file_of_others_is_left_as_it_is_said_once_and_keeps_nobody_waiting(
    tmp_path: Path, make, caplog: pytest.LogCaptureFixture
) -> None:
    dead = leave(tmp_path)
    strange = tmp_path / f"{dead.place.prefix}-0.db"
    make(strange)
    content = strange.read_bytes()
    heir = Bench(tmp_path)
    for _ in range(3):
        recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)
    assert strange.read_bytes() == content
    assert len([line for line in caplog.messages if "left as it is" in line]) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"garbage" * 1000])
def test_garbage_is_put_aside_or_removed_and_keeps_nobody_waiting(tmp_path: Path, content: bytes) -> None:
    dead = leave(tmp_path)
    strange = tmp_path / f"{dead.place.prefix}-0.db"
    strange.write_bytes(content)
    heir = Bench(tmp_path)
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)
    assert left(tmp_path) == ([f"{strange.name}.corrupt-1"] if content else [])


@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_damaged_records_are_counted_and_the_others_delivered(tmp_path: Path, batch_size: int) -> None:
    dead = leave(tmp_path, 12)
    with connected(dead.file) as db:
        db.execute("UPDATE events SET data=substr(data, 2) WHERE seq BETWEEN 4 AND 8")
        db.execute("UPDATE events SET seq=-7 WHERE seq=1")
        db.commit()
    heir = Bench(tmp_path, batch_size=batch_size)
    recovery = recover(heir)
    assert set(heir.backend.stored) == dead.ids([2, 3, 9, 10, 11, 12])
    assert (recovery.ledger.dropped(), left(tmp_path)) == ({"spool_error": 6}, [])


def test_an_event_larger_than_this_process_would_take_is_sent_all_the_same(tmp_path: Path) -> None:
    dead = Bench(tmp_path, max_queue_bytes=64 << 20)
    dead.put(2)
    dead.put(1, size=9 << 20)
    dead.put(2)
    dead.store()
    kill(dead)
    heir = Bench(tmp_path, max_queue_bytes=1 << 20)
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)


def test_a_file_that_cannot_be_read_now_is_left_and_tried_later(tmp_path: Path) -> None:
    dead = leave(tmp_path, 25)
    other = leave(tmp_path, 5)
    heir = Bench(tmp_path)
    recovery = heir.spooling.recovery
    real = SpoolFile.read

    def broken(file, *arguments):
        if file.origin.session == dead.session:
            raise sqlite3.OperationalError("disk I/O error")
        return real(file, *arguments)

    with patch.object(SpoolFile, "read", broken):
        for step in range(20):
            recovery.step(1.0, heir.now + step, lambda: heir.now)
    assert heir.backend.stored == dict.fromkeys(other.ids(), 1)
    assert dead.rows() == list(range(1, 26))
    heir.now += UNREADABLE
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids() | other.ids(), 1)
    assert left(tmp_path) == []


def test_a_file_that_turns_out_to_be_broken_is_put_aside_with_its_loss_counted(tmp_path: Path) -> None:
    leave(tmp_path, 25)
    heir = Bench(tmp_path)
    recovery = heir.spooling.recovery
    recovery.step(1.0, heir.now, lambda: heir.now)
    with patch.object(SpoolFile, "read", side_effect=spoolfile.Corrupt):
        recover(heir)
    assert (recovery.recovered, recovery.ledger.dropped()) == (10, {"spool_error": 15})
    assert [name for name in left(tmp_path) if not name.endswith(("-wal", "-shm"))] == [
        name for name in left(tmp_path) if name.endswith(".corrupt-1")
    ]


def test_a_file_that_cannot_be_deleted_is_not_sent_again_and_again(tmp_path: Path) -> None:
    dead = leave(tmp_path, 5)
    heir = Bench(tmp_path)
    with (
        patch.object(spoolfile.os, "unlink", side_effect=PermissionError),
        patch.object(SpoolFile, "write", side_effect=sqlite3.OperationalError("attempt to write a readonly database")),
    ):
        for _ in range(5):
            recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)


def test_what_is_deleted_under_the_heir_ends_its_work(tmp_path: Path) -> None:
    leave(tmp_path, 25)
    heir = Bench(tmp_path)
    heir.spooling.recovery.step(1.0, heir.now, lambda: heir.now)
    for path in tmp_path.iterdir():
        path.unlink()
    recover(heir)
    assert len(heir.backend.stored) in (10, 25)  # what is open can be read still


SMALL_FILE: dict[str, bytes] = {}


def small_file(directory: Path) -> tuple[str, bytes]:
    """A file with a few events, all of it moved out of its log."""
    if not SMALL_FILE:
        dead = Bench(directory / "made")
        dead.put(12, input=b'"' + b"x" * 200 + b'"')
        dead.store()
        dead.end()
        prefix = f"{dead.session.event_prefix}|{dead.file.name}"
        SMALL_FILE[prefix] = dead.file.read_bytes()
    ((name, content),) = SMALL_FILE.items()
    return name, content


@given(data=st.data())
def test_whatever_byte_of_a_file_is_wrong_the_whole_events_arrive_and_the_others_are_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    name, content = small_file(folder)
    prefix, _, file = name.partition("|")
    kind = data.draw(st.sampled_from(["flip", "zeros", "cut"]))
    place = data.draw(st.integers(0, len(content) - 1))
    broken = bytearray(content)
    if kind == "flip":
        broken[place] ^= data.draw(st.integers(1, 255))
    elif kind == "zeros":
        end = min(place + data.draw(st.integers(1, 5000)), len(content))
        broken[place:end] = bytes(end - place)
    else:
        del broken[place:]
    spool = folder / "spool"
    spool.mkdir()
    (spool / file).write_bytes(broken)
    heir = Bench(spool)
    recovery = recover(heir, most=100)
    events = [f"{prefix}{seq:012x}" for seq in range(1, 13)]
    assert set(heir.backend.stored.values()) <= {1}
    arrived = set(heir.backend.stored)
    kept = any(
        entry.startswith(file) for entry in left(spool)
    )  # put aside, or for somebody else by what it says of itself
    nothing = len(broken) < 512  # which SQLite takes for an empty file; and what was in it is nowhere
    assert kept or nothing or len(arrived) + sum(recovery.ledger.dropped().values()) == 12
    assert arrived <= set(events) or (
        kind == "flip" and len(arrived) == 12
    )  # what ids begin with may be what is broken


def test_the_events_of_a_file_keep_their_names_and_their_content(tmp_path: Path) -> None:
    dead = Bench(tmp_path)
    dead.put(3, input=b'{"q": [1, 2]}')
    dead.store()
    kill(dead)
    heir = Bench(tmp_path)
    seen = []
    deliver = heir.backend.deliver
    heir.backend.plan = [lambda batch: (seen.append((batch.session, list(batch.events))), deliver(batch))[1]]
    recover(heir)
    session, events = seen[0]
    assert session == dead.session
    assert events == [event(seq, input=b'{"q": [1, 2]}') for seq in (1, 2, 3)]


def test_a_refusal_to_answer_at_all_is_no_progress_and_no_loss(tmp_path: Path) -> None:
    dead = leave(tmp_path, 5)
    heir = Bench(tmp_path)
    heir.backend.plan = [lambda batch: Outcome(problem="HTTP 503", kind=BUSY)] * 3
    for _ in range(3):
        heir.now += LONG
        outcome = heir.spooling.recovery.step(1.0, heir.now, lambda: heir.now)
        assert outcome is not None
        assert outcome.problem == "HTTP 503"
    assert dead.rows() == [1, 2, 3, 4, 5]
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)


def test_an_empty_file_that_was_left_is_removed(tmp_path: Path) -> None:
    dead = leave(tmp_path, 1)
    with connected(dead.file) as db:
        db.execute("DELETE FROM events")
        db.commit()
    recover(Bench(tmp_path))
    assert left(tmp_path) == []


def test_a_file_under_a_name_that_is_no_sessions_is_sent_all_the_same(tmp_path: Path) -> None:
    dead = leave(tmp_path, 3)
    os.rename(dead.file, tmp_path / f"{dead.place.prefix}-renamed.db")
    for path in tmp_path.glob("*-wal"):
        os.rename(path, tmp_path / f"{dead.place.prefix}-renamed.db-wal")
    heir = Bench(tmp_path)
    recover(heir)
    assert heir.backend.stored == dict.fromkeys(dead.ids(), 1)


def test_two_records_under_the_wrong_numbers_are_both_damaged(tmp_path: Path) -> None:
    dead = leave(tmp_path, 4)
    with connected(dead.file) as db:
        db.executemany("UPDATE events SET data=? WHERE seq=?", [(pack(event(2)), 1), (pack(event(1)), 2)])
        db.commit()
    heir = Bench(tmp_path)
    recovery = recover(heir)
    assert set(heir.backend.stored) == dead.ids([3, 4])
    assert recovery.ledger.dropped() == {"spool_error": 2}


def test_what_was_put_off_goes_on_as_soon_as_the_backend_is_seen_to_work(tmp_path: Path) -> None:
    recovery = Bench(tmp_path).spooling.recovery
    recovery.put_off(160.0)
    assert recovery.wait(100.0) == 60.0
    recovery.go_on(110.0)
    assert recovery.wait(110.0) == 0.0
    recovery.step(1.0, 110.0, lambda: 110.0)
    recovery.go_on(111.0)  # what is not put off is not hurried either
    assert recovery.wait(111.0) == SCAN - 1.0
