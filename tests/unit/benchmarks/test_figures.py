"""The arithmetic of the benchmarks: percentiles, ratios within a round, verdicts, and steps that arrived whole."""

from __future__ import annotations

import pytest

from benchmarks.field.adapters import EVERYBODY, KINDS
from benchmarks.field.measures import MEASURES, QUICK
from benchmarks.field.numbers import Spread, in_microseconds, percentile, spread
from benchmarks.field.payloads import Payloads, whole_steps
from benchmarks.field.rows import ROWS, Limit, Line, Row, chosen, lines, with_net_cpu
from benchmarks.field.runner import Sample

LESS = Row("x", "x", "burst", "time", "µs", core=(Limit(0.5, ("otel", "libhoney")),), subjects=("agentscope",))
MORE = Row("y", "y", "burst", "rate", "/s", core=(Limit(2, ("otel",)),), more_is_better=True, subjects=("agentscope",))
PLAIN = Row("z", "z", "burst", "time", "µs", core=(Limit(10),), fast=(Limit(5),))


def sample(subject: str, number: int = 0, **figures: float) -> Sample:
    return Sample("burst", subject, number, figures)


def only(row: Row, *samples: Sample) -> Line:
    (line,) = lines(samples, [row])
    return line


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1), (0.005, 1), (0.011, 2)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile(range(1, 101), share) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([]) is None


def test_times_are_in_microseconds() -> None:
    found = in_microseconds([1_000, 3_000, 2_000], "step")
    assert found == {"step_mean": 2.0, "step_p50": 2.0, "step_p99": 3.0, "step_p999": 3.0, "step_max": 3.0}
    assert in_microseconds([], "step") == {}


def test_a_ratio_is_taken_to_the_best_peer_of_the_same_round_and_its_median_is_judged() -> None:
    line = only(
        LESS,
        *(sample("agentscope", number, time=time) for number, time in enumerate((10, 40, 20))),
        *(sample("otel", number, time=time) for number, time in enumerate((100, 100, 100))),
        *(sample("libhoney", number, time=time) for number, time in enumerate((200, 50, 400))),
    )
    assert line.compared == Spread(0.2, 0.1, 0.8)
    assert (line.value, line.peer) == (Spread(20, 10, 40), Spread(100, 50, 100))
    assert line.met is True


def test_if_more_is_better_the_limit_is_the_least_value() -> None:
    assert only(MORE, sample("agentscope", rate=19), sample("otel", rate=10)).met is False
    assert only(MORE, sample("agentscope", rate=20), sample("otel", rate=10)).met is True


def test_the_extra_has_limits_of_its_own() -> None:
    core, fast = lines([sample("agentscope", time=7), sample("agentscope-fast", time=7)], [PLAIN])
    assert (core.met, fast.met) == (True, False)


def test_without_the_peer_nothing_is_judged() -> None:
    line = only(MORE, sample("agentscope", rate=20))
    assert (line.met, line.why) == (None, "no otel to compare with")


def test_the_best_of_two_peers_is_not_known_without_one_of_them() -> None:
    line = only(LESS, sample("agentscope", time=20), sample("otel", time=100))
    assert (line.met, line.why) == (None, "no libhoney to compare with")


def test_a_row_without_a_measurement_is_not_judged() -> None:
    line = only(LESS)
    assert (line.value, line.met, line.why) == (None, None, "not measured")


def test_a_measure_that_failed_once_is_not_met() -> None:
    line = only(
        MORE,
        sample("agentscope", 0, rate=20),
        sample("otel", 0, rate=1),
        Sample("burst", "agentscope", 1, error="boom"),
    )
    assert (line.met, line.why) == (False, "boom")


def test_a_good_time_with_a_loss_is_not_met() -> None:
    row = Row("x", "x", "burst", "time", "s", core=(Limit(1),), subjects=("agentscope",), also=("whole", 200))
    assert only(row, sample("agentscope", time=0.5, whole=200)).met is True
    line = only(row, sample("agentscope", 0, time=0.5, whole=200), sample("agentscope", 1, time=0.5, whole=199))
    assert (line.met, line.why) == (False, "whole is 199, not 200")


def test_the_loop_alone_is_taken_off_the_cpu_time() -> None:
    loop = sample("nothing", cpu_seconds=1.0, tracked=100, whole=0)
    found = with_net_cpu([loop, sample("otel", cpu_seconds=3.0, tracked=100, whole=50)])
    assert (found[1].figures["cpu"], found[1].figures["cpu_whole"]) == (20_000, 40_000)


def test_a_step_arrived_whole_only_with_the_head_and_the_tail_of_input_and_output() -> None:
    def body(number: int) -> bytes:
        return repr(Payloads().step(number)).encode()

    assert whole_steps([body(1), body(2) + body(3)]) == (3, 3)
    assert whole_steps([body(1), body(1)]) == (1, 1)
    assert whole_steps([body(1), body(2).replace(b"@ot2@", b"")]) == (1, 2)
    assert whole_steps([]) == (0, 0)


def test_steps_differ_and_are_made_again_the_same() -> None:
    assert Payloads().step(5) == Payloads().step(5) != Payloads().step(6)


def test_rows_are_chosen_by_name() -> None:
    assert [row.key for row in chosen(["wire", "step"])] == ["step", "wire"]
    assert chosen([]) == list(ROWS)
    with pytest.raises(ValueError, match="no row speed; there are step, "):
        chosen(["speed"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_row_shows_what_a_measure_takes_of_all_that_it_compares(row: Row) -> None:
    measured = MEASURES[row.measure].subjects
    peers = {peer for limit in (*row.core, *(row.fast or ())) for peer in limit.of}
    assert {*row.subjects, *peers} <= set(measured) <= set(KINDS)


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_every_sdk_can_be_installed() -> None:
    assert all(KINDS[name].requirements for name in EVERYBODY)


def test_a_quick_run_does_the_same_with_less() -> None:
    work = MEASURES["burst4"].work
    assert (work.smaller(QUICK).runs, work.smaller(1).runs, work.smaller(QUICK).threads) == (100, work.runs, 4)
    assert MEASURES["exit_ok"].work.smaller(QUICK) == MEASURES["exit_ok"].work
