"""Wrong keys are counted by address, logged in a bounded number of lines, and answered more and more slowly."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agentscope.server.http.guesses import Guesses


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guesses(clock: Clock) -> Guesses:
    return Guesses(3, 5.0, now=clock)


def test_a_few_wrong_keys_are_free_and_each_one_more_takes_longer(guesses: Guesses) -> None:
    assert [guesses.wrong("192.0.2.1") for _ in range(8)] == [0, 0, 0, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert guesses.wrong("192.0.2.2") == 0


def test_every_wrong_key_is_counted_once() -> None:
    counted: list[None] = []
    guesses = Guesses(3, 5.0, lambda: counted.append(None))
    for _ in range(9):
        guesses.wrong("192.0.2.1")
    assert len(counted) == 9


def test_an_address_of_ipv4_on_a_socket_of_ipv6_is_counted_as_itself(guesses: Guesses) -> None:
    for _ in range(8):
        guesses.wrong("::ffff:203.0.113.9")
    assert guesses.seconds_to_wait("::ffff:198.51.100.7") == 0
    assert guesses.seconds_to_wait("::1") == 0
    assert guesses.seconds_to_wait("203.0.113.9") == guesses.seconds_to_wait("::ffff:203.0.113.9") > 0


def test_an_address_may_try_again_after_its_time(guesses: Guesses, clock: Clock) -> None:
    assert guesses.seconds_to_wait("192.0.2.1") == 0
    for _ in range(2):
        guesses.wrong("192.0.2.1")
    assert guesses.seconds_to_wait("192.0.2.1") == 0
    guesses.wrong("192.0.2.1")
    assert guesses.seconds_to_wait("192.0.2.1") == 5
    assert guesses.seconds_to_wait("192.0.2.2") == 0
    clock.now += 5
    assert guesses.seconds_to_wait("192.0.2.1") == 0


def test_wrong_keys_are_forgotten_with_time(guesses: Guesses, clock: Clock) -> None:
    for _ in range(5):
        guesses.wrong("192.0.2.1")
    clock.now += 60
    assert guesses.wrong("192.0.2.1") == 0


def test_the_addresses_of_one_ipv6_network_count_together(guesses: Guesses) -> None:
    for last in range(3):
        guesses.wrong(f"2001:db8::{last}")
    assert guesses.seconds_to_wait("2001:db8::ffff") > 0
    assert guesses.seconds_to_wait("2001:db8:0:1::1") == 0


def test_a_stranger_writes_few_lines_however_many_keys_and_addresses_it_tries(
    guesses: Guesses, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(100):
        guesses.wrong("192.0.2.1")
    assert [record.getMessage() for record in caplog.records] == [
        "a wrong key came from 192.0.2.1 (1 since the last line on it)"
    ]
    clock.now += 60
    guesses.wrong("192.0.2.1")
    assert "(100 since" in caplog.records[-1].getMessage()
    for n in range(5000):
        guesses.wrong(f"2001:db8:0:{n:x}::1")
    assert len(caplog.records) <= 31
    assert len(guesses._counts) <= 1024


def test_only_a_few_answers_wait_at_once(guesses: Guesses, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []

    async def never(seconds: float) -> None:
        waiting.append(seconds)
        await asyncio.Event().wait()

    async def attack() -> int:
        monkeypatch.setattr("agentscope.server.http.guesses._sleep", never)
        tasks = [asyncio.ensure_future(guesses.slow_down("192.0.2.1")) for _ in range(100)]
        done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 84:
            more, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)

    assert asyncio.run(attack()) == 16
    assert len(waiting) == 16
    assert guesses._waiting == 0
