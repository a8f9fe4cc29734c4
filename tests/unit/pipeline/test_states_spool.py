"""The states with a spool: events in memory, on disk or both are counted and delivered once, in the order for the backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentscope.pipeline.process import threads
from agentscope.pipeline.spool.codec import pack
from agentscope.pipeline.spool.spool import Saved
from agentscope.pipeline.states import MOST_WRITTEN_BYTES
from agentscope.protocols.base import BUSY, Outcome
from tests.support.spools import LONG, Bench, Disk, connected, event

SMALL = {"max_queue_bytes": 160 * 256}
"""Room for 160 events, and for 40 that are on disk as well."""


def test_a_stored_event_is_on_disk_and_in_memory_and_counted_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(5)
    assert bench.states.counts().pending == 5
    bench.store()
    counts = bench.states.counts()
    assert (counts.pending, counts.spooled) == (0, 5)
    assert bench.rows() == [1, 2, 3, 4, 5]


def test_delivered_events_are_deleted_and_the_end_deletes_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(25)
    bench.send_all()
    assert bench.rows() == []
    assert (bench.ledger.delivered, bench.states.queue.bytes) == (25, 0)
    bench.end()
    assert list(tmp_path.iterdir()) == []


def test_events_beyond_the_share_of_memory_are_on_disk_only_and_are_read_back_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **SMALL)
    for _ in range(10):
        bench.put(40)
        bench.store()
    assert bench.states.queue.bytes <= 45 * 256
    assert bench.states.stored == 400
    bench.send_all()
    assert [seq for batch in bench.backend.batches for seq in batch] == list(range(1, 401))
    assert bench.rows() == []
    assert (bench.ledger.dropped(), bench.states.queue.bytes) == ({}, 0)


def test_a_backend_that_needs_order_gets_events_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **SMALL)
    bench.backend.protocol = "classic"
    for round_ in range(30):
        bench.put(17)
        bench.store()
        if round_ % 3 == 0:
            bench.send()
    bench.send_all()
    sent = [seq for batch in bench.backend.batches for seq in batch]
    assert sent == sorted(sent)
    assert len(sent) == len(set(sent)) == 510


def test_a_fresh_event_does_not_wait_for_a_backlog_where_order_does_not_matter(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **SMALL)
    bench.put(1)
    bench.store()
    bench.send()  # what the backend is, is known from now on
    for _ in range(10):
        bench.put(40)
        bench.store()
    while bench.states._fresh:
        bench.send()
    assert bench.states.stored > 100
    (fresh,) = bench.put(1)
    bench.store()
    for _ in range(3):
        bench.send()
    assert any(fresh in batch for batch in bench.backend.batches)
    bench.send_all()
    assert set(bench.backend.stored) == bench.ids()


def test_old_events_are_sent_however_many_new_ones_come(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_queue_bytes=100_000)
    bench.put(1)
    bench.send_all()
    bench.put(90, size=900)
    bench.store()
    bench.put(90, size=900)
    bench.store()
    behind = bench.states.stored
    assert bench.states.disk_only > 50
    for _ in range(20):
        bench.put(10, size=600)
        bench.store()
        bench.send()
    assert bench.states.stored <= behind
    assert bench.states.unread[0] > 100
    bench.send_all()


def test_while_the_disk_fails_events_stay_in_memory_and_are_written_later(tmp_path: Path) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        disk.mode = "broken"
        bench.put(5)
        bench.store()
        assert (bench.states.counts().pending, bench.spool.problem) == (
            5,
            "the spool does not work: disk I/O error",
        )
        bench.backend.plan = [bench.backend.fail]
        bench.send()
        disk.mode = ""
        bench.now += LONG
        bench.store()
        assert (bench.states.counts().spooled, bench.spool.problem) == (5, None)
        assert bench.rows() == [1, 2, 3, 4, 5]
        bench.send_all()
        assert bench.backend.stored == dict.fromkeys(bench.ids(), 1)
        bench.end()


@pytest.mark.parametrize("mode", ["full", "broken", "locked", "doubtful"])
def test_no_fault_of_the_disk_doubles_or_loses_an_event(tmp_path: Path, mode: str) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path, **SMALL)
        for round_ in range(12):
            disk.mode = mode if round_ % 2 else ""
            bench.now += LONG
            bench.put(13)
            bench.store()
            bench.send()
        disk.mode = ""
        bench.now += LONG
        bench.send_all()
        assert bench.ledger.dropped() == {}
        assert bench.backend.stored == dict.fromkeys(bench.ids(), 1)
        assert bench.rows() == []


def test_what_was_delivered_while_its_write_seemed_to_fail_is_not_left_on_disk(tmp_path: Path) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        bench.put(1)
        bench.store()
        disk.mode = "doubtful"
        bench.put(1)
        bench.store()
        disk.mode = ""
        bench.send()
        bench.now += LONG
        bench.put(1)
        bench.store()
        assert bench.rows() == [3]


def test_one_transaction_writes_a_bounded_number_of_unsaved_events(tmp_path: Path) -> None:
    sizes = []
    with Disk().under() as disk:
        bench = Bench(tmp_path, max_queue_bytes=32 << 20)
        disk.mode = "broken"
        bench.put(20, size=1 << 20)
        bench.store()
        disk.mode = ""
        save = bench.spool.save
        bench.spool.save = lambda rows, gone, now: (sizes.append(len(rows)), save(rows, gone, now))[1]
        bench.now += LONG
        bench.store()
        assert bench.rows() == list(range(1, 21))
    assert max(sizes) * (1 << 20) <= 2 * MOST_WRITTEN_BYTES


def test_a_deleted_file_loses_only_events_that_were_on_disk_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **SMALL)
    for _ in range(4):
        bench.put(40)
        bench.store()
    alone = bench.states.disk_only
    assert alone > 50
    for path in tmp_path.iterdir():
        path.unlink()
    bench.put(1)
    bench.store()
    assert bench.ledger.dropped() == {"spool_error": alone}
    assert bench.rows() == [*range(1, 161 - alone), 161]
    bench.send_all()
    assert bench.ledger.delivered == 161 - alone


def test_a_file_that_is_deleted_is_missed_at_the_end_at_the_latest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(5)
    bench.store()
    for path in tmp_path.iterdir():
        path.unlink()
    bench.end()
    assert bench.states.counts().spooled == 5
    assert bench.rows() == [1, 2, 3, 4, 5]


def test_a_file_that_vanishes_while_it_is_closed_is_missed_too(tmp_path: Path) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        bench.put(5)
        bench.store()
        disk.mode = "broken"
        bench.put(1)
        bench.store()
        for path in tmp_path.glob("*.db*"):
            path.unlink()
        disk.mode = ""
        bench.now += LONG
        bench.store()
        assert bench.rows() == [1, 2, 3, 4, 5, 6]


def test_damaged_records_are_dropped_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, batch_size=3, **SMALL)
    for _ in range(5):
        bench.put(40)
        bench.store()
    behind = bench.states.unread[0]
    with connected(bench.file) as db:  # more in a row than are read at once
        db.execute("UPDATE events SET data=x'00' WHERE seq>? AND seq<=?", (behind + 5, behind + 15))
        db.commit()
    bench.send_all()
    assert bench.ledger.dropped() == {"spool_error": 10}
    assert bench.ledger.delivered == 190
    assert bench.rows() == []


def test_deleted_rows_are_counted_once_as_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **SMALL)
    for _ in range(5):
        bench.put(40)
        bench.store()
    alone = bench.states.disk_only
    with connected(bench.file) as db:
        db.execute("DELETE FROM events")
        db.commit()
    bench.send_all()
    assert (bench.ledger.dropped(), bench.ledger.delivered) == ({"spool_error": alone}, 200 - alone)


def test_an_event_whose_redaction_fails_never_touches_the_disk(tmp_path: Path) -> None:
    def refuse_odd(event):
        if event.seq % 2:
            raise ValueError
        return event

    bench = Bench(tmp_path, redact=refuse_odd)
    bench.put(6)
    bench.store()
    assert bench.rows() == [2, 4, 6]
    assert bench.ledger.dropped() == {"redaction_error": 3}


def test_events_are_redacted_once_and_written_redacted(tmp_path: Path) -> None:
    def redact(event):
        return event._replace(fields={"name": event.fields["name"] + "!"})

    bench = Bench(tmp_path, redact=redact, **SMALL)
    bench.put(40, input=b'"secret-canary"')
    bench.put(40, input=b'"secret-canary"')
    bench.store()
    sent = []
    deliver = bench.backend.deliver
    bench.backend.plan = [lambda batch: (sent.extend(batch.events), deliver(batch))[1]] * 100
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret-canary" not in content
    assert b"step 1!" in content
    bench.send_all()
    assert [event.fields for event in sent] == [{"name": f"step {number}!"} for number in range(1, 81)]


def test_an_event_that_cannot_be_packed_is_dropped_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    bench.put(1, odd=object())
    bench.put(1)
    bench.store()
    assert bench.rows() == [1, 3]
    assert bench.ledger.dropped() == {"encode_error": 1}


def test_incomplete_events_stay_on_disk_until_they_are_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(4)
    bench.backend.plan = [lambda batch: Outcome(parked=[1, 2], delivered=[3, 4])]
    bench.store()
    bench.send()
    bench.store()
    assert bench.rows() == [1, 2]
    bench.end()
    assert bench.rows() == [1, 2]


def test_the_end_counts_what_is_on_disk_as_kept_and_the_rest_as_lost_with_the_spools_reason(tmp_path: Path) -> None:
    with Disk().under() as disk:
        bench = Bench(tmp_path)
        bench.put(3)
        bench.store()
        disk.mode = "full"
        bench.put(2)
        bench.end()
        counts = bench.states.counts()
        assert (counts.spooled, counts.dropped, counts.pending) == (3, {"spool_error": 2}, 0)
        disk.mode = ""
    assert bench.rows() == [1, 2, 3]


def test_a_write_after_the_end_makes_no_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    bench.send_all()
    bench.end()
    # A write that hung, and goes on when nobody waits for it any more.
    assert bench.spool.save([(1, pack(event(1)))], (), bench.now + LONG) == Saved()
    assert list(tmp_path.iterdir()) == []


def test_the_end_does_not_wait_for_a_disk_that_hangs_in_another_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    with threads.disk():  # as a read that never comes back
        assert not bench.spooling.store(bench.now, timeout=0.01)
    assert bench.states.counts().pending == 1


def test_a_refused_key_is_noted_in_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    bench.store()
    bench.backend.plan = [lambda batch: Outcome(problem="no", kind="unauthorized")]
    bench.send()
    with connected(bench.file) as db:
        assert db.execute("SELECT refused FROM about").fetchone() == (1,)


def test_after_a_lost_answer_the_batch_is_sent_again_and_stored_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(3)
    bench.backend.plan = [bench.backend.lose_answer]
    bench.send_all()
    assert set(bench.backend.stored) == bench.ids()
    assert (bench.ledger.delivered, bench.ledger.duplicates, bench.rows()) == (3, 3, [])


def test_nothing_is_deleted_that_has_no_verdict(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(3)
    bench.store()
    bench.backend.plan = [lambda batch: Outcome(delivered=[2], problem="busy", kind=BUSY)]
    bench.send()
    bench.store()
    assert bench.rows() == [1, 3]
