"""Between queue and batches: events in memory, on disk or both, each counted and delivered once, in the order asked for."""

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


def test_what_is_stored_is_on_disk_and_in_memory_and_counted_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(5)
    assert bench.states.counts().pending == 5
    bench.store()
    counts = bench.states.counts()
    assert (counts.pending, counts.spooled) == (0, 5)
    assert bench.rows() == [1, 2, 3, 4, 5]


def test_what_is_delivered_is_deleted_and_the_file_goes_with_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(25)
    bench.send_all()
    assert bench.rows() == []
    assert (bench.ledger.delivered, bench.states.queue.bytes) == (25, 0)
    bench.end()
    assert list(tmp_path.iterdir()) == []


def test_what_memory_has_no_room_for_is_on_disk_only_and_comes_back_in_its_turn(tmp_path: Path) -> None:
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


def test_a_backend_that_wants_its_order_gets_it_whatever_comes_between(tmp_path: Path) -> None:
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


def test_old_events_get_on_however_many_fresh_ones_come(tmp_path: Path) -> None:
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


def test_a_disk_that_does_not_work_leaves_all_in_memory_and_gets_it_when_it_does(tmp_path: Path) -> None:
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
def test_no_fault_of_the_disk_makes_an_event_twice_or_none_of_it(tmp_path: Path, mode: str) -> None:
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


def test_one_transaction_takes_no_more_than_its_share_of_what_waited_for_the_disk(tmp_path: Path) -> None:
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


def test_a_file_that_is_deleted_costs_only_what_was_nowhere_else(tmp_path: Path) -> None:
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


def test_damaged_records_cost_themselves_and_no_others(tmp_path: Path) -> None:
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


def test_rows_that_somebody_deleted_are_counted_and_not_looked_for_for_ever(tmp_path: Path) -> None:
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


def test_what_is_redacted_is_redacted_once_and_only_that_is_written(tmp_path: Path) -> None:
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


def test_what_cannot_be_packed_is_dropped_and_its_company_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    bench.put(1, odd=object())
    bench.put(1)
    bench.store()
    assert bench.rows() == [1, 3]
    assert bench.ledger.dropped() == {"encode_error": 1}


def test_parked_events_stay_on_disk_until_they_are_sent(tmp_path: Path) -> None:
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


def test_what_comes_to_the_disk_after_the_end_makes_no_file(tmp_path: Path) -> None:
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


def test_a_lost_answer_is_asked_for_again_and_nothing_is_stored_twice(tmp_path: Path) -> None:
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
