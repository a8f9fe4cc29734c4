"""Snapshots: any value becomes strict, bounded JSON, and no exception of a value reaches the caller."""

from __future__ import annotations

import base64
import enum
import json
import math
import re
import sys
import threading
from collections import Counter, OrderedDict, UserString, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import attrs
import numpy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentscope.serialization import fallback, snapshot
from agentscope.serialization.exceptions import describe_exception
from agentscope.serialization.fallback import render
from agentscope.serialization.snapshot import encode, text

pytestmark = pytest.mark.usefixtures("encoder")

ENCODERS = {"stdlib": snapshot._standard_dumps(), "orjson": snapshot._fast_dumps()}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with both encoders, since results must not depend on what is installed."""
    monkeypatch.setattr(snapshot, "_dumps", ENCODERS[request.param])


def strict(encoded: bytes) -> Any:
    """Parse strictly: valid UTF-8, no NaN, no duplicate key."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"a key twice: {pairs}"
        return dict(pairs)

    decoded = json.loads(encoded.decode("utf-8"), parse_constant=refuse, object_pairs_hook=once)
    json.dumps(decoded, ensure_ascii=False).encode("utf-8")  # fails for a lone surrogate
    return decoded


def told(value: object, limit: int = 1 << 20) -> Any:
    """The value of a lossless snapshot."""
    __tracebackhide__ = True  # pytest would show the arguments, and dies of a repr that raises SystemExit
    encoded, lossy = encode(value, limit)
    assert not lossy
    return strict(encoded)


def lost(value: object, limit: int = 1 << 20) -> Any:
    """The value of a lossy snapshot."""
    __tracebackhide__ = True
    encoded, lossy = encode(value, limit)
    assert lossy
    return strict(encoded)


# ---- plain JSON


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**64 - 1,
        1.5,
        -1e308,
        "",
        "zażółć 😀 \u2028 \x7f",
        'quotes " and \\ and \0 and \n',
        [],
        {},
        [[], {}, [None, True, 1, 1.5, "x"]],
        [[i, {"n": [i]}] for i in range(100)],
        {"a": {"b": [{"c": 1}, {"d": [2, 3]}]}, "": ""},
    ],
)
def test_plain_json_comes_back_equal(value: object) -> None:
    assert told(value) == value


def test_a_tuple_is_an_array() -> None:
    assert told({"t": (1, (2, "x"))}) == {"t": [1, [2, "x"]]}


def test_plain_json_is_written_without_blanks_and_without_escaping_unicode() -> None:
    assert encode({"a": [1, "é"], "b": None}) == ('{"a":[1,"é"],"b":null}'.encode(), False)


def test_a_later_change_of_the_value_does_not_change_the_snapshot() -> None:
    value = {"list": [1], "inner": {"a": 1}}
    encoded, _ = encode(value)
    value["list"].append(2)
    value["inner"].clear()
    assert strict(encoded) == {"list": [1], "inner": {"a": 1}}


@pytest.mark.parametrize("depth", [1, 49, 50])
def test_fifty_nested_containers_are_recorded(depth: int) -> None:
    value: object = "x"
    for _ in range(depth):
        value = {"k": value} if depth % 2 else [value, 1]
    assert told(value) == value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: [v, [[1]]], lambda v: deque([v])])
@pytest.mark.parametrize("depth", [51, 1000, 100_000])
def test_a_deeper_container_is_replaced_by_a_note(wrap: Callable[[object], object], depth: int) -> None:
    value: object = "x"
    for _ in range(depth):
        value = wrap(value)
    encoded, lossy = encode(value)
    strict(encoded)
    assert lossy
    assert b'"<too deep>"' in encoded
    while isinstance(value, deque):  # a deque's own destructor would recurse into all of them
        value = value.pop()


def test_the_copy_of_an_orjson_result_keeps_no_larger_buffer_alive() -> None:
    encoded, _ = encode({"a": "x" * 2000})
    assert sys.getsizeof(encoded) == sys.getsizeof(b"") + len(encoded)


# ---- scalars that JSON does not have


@pytest.mark.parametrize(
    ("value", "name"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (numpy.float64("nan"), "NaN")],
)
def test_a_number_that_json_lacks_is_recorded_by_name(value: float, name: str) -> None:
    assert lost({"x": [value, 1.0]}) == {"x": [name, 1.0]}


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**300])
def test_an_integer_beyond_64_bits_is_recorded_as_a_string_of_digits(value: int) -> None:
    assert told([value, 1]) == [str(value), 1]


def test_an_integer_with_too_many_digits_is_recorded_by_its_size() -> None:
    assert lost([10**5000]) == ["<int of 16610 bits>"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("\ud800", "\ufffd"),
        ("a\udfffb\ud83d", "a\ufffdb\ufffd"),
        ("\ud83d\ude00", "😀"),
        (dict(zip(["\ud800", "\ufffd"], [1, 2], strict=True)), {"\ufffd (str)": 1, "\ufffd": 2}),
    ],
)
def test_a_lone_surrogate_is_replaced(value: object, expected: object) -> None:
    assert lost(value) == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'{"password": "hunter2"}', '{"password": "hunter2"}'),
        ("naïve 漢字 \U0001f600\n\t".encode(), "naïve 漢字 \U0001f600\n\t"),
        ("caf\xe9, and more text".encode("latin-1"), "café, and more text"),
        (b"", ""),
    ],
)
def test_bytes_that_are_text_are_recorded_as_text(kind: Callable[[bytes], object], value: bytes, text: str) -> None:
    assert told(kind(value)) == text


def test_keys_that_are_bytes_are_recorded_as_text() -> None:
    assert told({b"password": b"x", "n": {b"k\xc3\xa9y": [(b"authorization", b"Bearer y")]}}) == {
        "password": "x",
        "n": {"kéy": [["authorization", "Bearer y"]]},
    }


def test_a_key_of_bytes_does_not_take_the_place_of_the_same_text() -> None:
    assert lost({b"k": 1, "k": 2}) == {"k (bytes)": 1, "k": 2}


@pytest.mark.parametrize("size", range(1000, 1004))
def test_text_in_bytes_is_cut_between_characters(size: int) -> None:
    shown = lost(("é漢" * 1000).encode(), size)
    assert re.fullmatch(r"(é漢)+é?…\[cut: 5000 bytes\]", shown)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_other_bytes_are_a_data_url(kind: Callable[[bytes], object]) -> None:
    head, _, body = told(kind(b"\x00\xffabc")).partition(",")
    assert head == "data:application/octet-stream;base64"
    assert base64.b64decode(body) == b"\x00\xffabc"


def test_bytes_beyond_the_limit_are_cut_with_a_note() -> None:
    shown = lost(b"\xff" * 10_000, 1000)
    assert re.fullmatch(r"data:application/octet-stream;base64,[A-Za-z0-9+/]+…\[cut: 10000 bytes\]", shown)


@pytest.mark.parametrize("view", [memoryview(bytearray(12)).cast("I"), memoryview(bytes(8))[::2]])
def test_a_memoryview_of_any_layout_is_recorded(view: memoryview) -> None:
    assert told(view).endswith(base64.b64encode(view.tobytes()).decode())


def test_a_released_memoryview_leaves_a_note() -> None:
    view = memoryview(b"x")
    view.release()
    assert lost(view) == "<memoryview: cannot be rendered>"


class Colour(enum.Enum):
    RED = "red"
    NESTED = ("a", (1, 2))


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    def __str__(self) -> str:
        raise ValueError


class Huge(int):
    def __repr__(self) -> str:
        raise ValueError


Point = namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 31, 12, 0, 0, 5, timezone.utc), "2026-01-31T12:00:00.000005+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (time(12, 30), "12:30:00"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=500), "P1DT2H3M4.5S"),
        (-timedelta(hours=1), "-P0DT1H0M0S"),
        (timedelta.min, "-P999999999DT0H0M0S"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a/b"), "/a/b"),
        (UserString("abc"), "abc"),
        (1 + 2j, "(1+2j)"),
        (range(10**12), f"range(0, {10**12})"),
        (re.compile("a+"), "a+"),
        (int, "<class 'int'>"),
        (Colour.RED, "red"),
        (Colour.NESTED, ["a", [1, 2]]),
        (Level.HIGH, 3),
        (Name("n"), "n"),
        (Huge(7), 7),
        (Point(1, [2]), {"x": 1, "y": [2]}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (deque([1, 2], maxlen=2), [1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (SimpleNamespace(a=1, b=[2]), {"a": 1, "b": [2]}),
        (ValueError("no"), {"type": "ValueError", "message": "no"}),
        (
            json.JSONDecodeError("m", "d", 0),
            {"type": "json.decoder.JSONDecodeError", "message": "m: line 1 column 1 (char 0)"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_a_known_type_is_recorded_in_json_terms(value: object, expected: object) -> None:
    assert told(value) == expected
    assert told({"inside": [value]}) == {"inside": [expected]}


def test_a_set_that_cannot_be_sorted_is_recorded_too() -> None:
    assert sorted(told({"a", 1}), key=str) == [1, "a"]


# ---- objects


@dataclass
class Shown:
    name: str
    inner: object = None
    secret: str = field(default="hunter2", repr=False)


@dataclass(slots=True)
class Slotted:
    name: str
    inner: object = None


@attrs.define
class Attrs:
    name: str
    secret: str = attrs.field(default="hunter2", repr=False)


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    at: datetime
    hidden: str = pydantic.Field(default="hunter2", exclude=True)
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")

    @pydantic.field_serializer("name")
    def slow(self, _: str) -> str:
        raise AssertionError("a serializer of the user's ran in the agent's thread")


class Root(pydantic.RootModel[list[int]]):
    pass


class OldModel:
    """An instance with the attributes of pydantic 1."""

    __fields__ = MappingProxyType({"name": None})
    __fields_set__ = frozenset({"name"})

    def __init__(self) -> None:
        self.name = "n"


class OlderModel:
    """An instance with the attributes of pydantic 2 before 2.10."""

    model_fields = MappingProxyType({"name": None, "unset": None})
    __pydantic_validator__ = None

    def __init__(self) -> None:
        self.name = "n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Shown("n", Shown("m")),
            {"name": "n", "inner": {"name": "m", "inner": None, "secret": "<hidden>"}, "secret": "<hidden>"},
        ),
        (Attrs("n"), {"name": "n", "secret": "<hidden>"}),
        (
            Model(name="n", at=datetime(2026, 1, 1), more=(1, 2)),
            {
                "name": "n",
                "at": "2026-01-01T00:00:00",
                "hidden": "<hidden>",
                "token": "SecretStr('**********')",
                "more": [1, 2],
            },
        ),
        (Root([1, 2]), [1, 2]),
        (OldModel(), {"name": "n"}),
        (OlderModel(), {"name": "n"}),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
)
def test_an_object_with_declared_fields_is_recorded_by_them_except_hidden_ones(value: object, expected: object) -> None:
    assert told(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.int64(5), 5),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.longdouble("0.5"), None),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array([], dtype="float64"), []),
        (numpy.array([Shown, None], dtype=object), [repr(Shown), None]),
        (numpy.dtype("int8"), "dtype('int8')"),
    ],
)
def test_numpy_values_are_recorded_as_plain_ones(value: Any, expected: object) -> None:
    assert told({"x": value}) == {"x": repr(value) if expected is None else expected}


def test_a_large_numpy_array_is_recorded_by_its_shape_and_first_elements() -> None:
    shown = lost(numpy.arange(10_000, dtype="int32").reshape(100, 100))
    assert shown == {"array": [100, 100], "dtype": "int32", "first": list(range(8)), "cut": "…"}


class Plain:
    def __repr__(self) -> str:
        return "Plain()"


def test_an_unknown_object_is_recorded_by_its_repr() -> None:
    assert told([Plain()]) == ["Plain()"]


def test_an_iterator_is_not_consumed() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    sources = [numbers(), iter([1, 2, 3]), map(int, "123"), zip("123", strict=True)]
    shown = told(sources)
    assert all(text.startswith("<") for text in shown)
    assert [len(list(source)) for source in sources] == [3, 3, 3, 3]


# ---- keys


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1: "a"}, {"1": "a"}),
        ({None: 1, True: 2, 1.5: 3}, {"None": 1, "True": 2, "1.5": 3}),
        ({(1, "a"): 1, b"\xff": 2, frozenset({1}): 3}, {"(1, 'a')": 1, "b'\\xff'": 2, "frozenset({1})": 3}),
        ({Colour.RED: 1, Level.HIGH: 2, Name("n"): 3}, {"red": 1, "3": 2, "n": 3}),
        ({date(2026, 1, 1): 1}, {"2026-01-01": 1}),
    ],
)
def test_a_key_that_is_no_str_is_recorded_as_text(value: object, expected: object) -> None:
    assert told(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1: "a", "1": "b"}, {"1 (int)": "a", "1": "b"}),
        ({"1": "b", 1: "a", "1 (int)": "c"}, {"1": "b", "1 (int 2)": "a", "1 (int)": "c"}),
        ({Colour.RED: 3, "red": 4}, {"red (Colour)": 3, "red": 4}),
        ({10**5000: 1}, {"<key failed>": 1}),
        ({"k" * 300: 1, "k" * 301: 2, 0: 3}, {"k" * 256 + "…": 1, "k" * 256 + "… (str)": 2, "0": 3}),
    ],
)
def test_keys_with_the_same_text_are_distinguished(value: dict[object, object], expected: object) -> None:
    assert lost(value) == expected


# ---- bounds


def test_a_cycle_is_replaced_by_a_note_at_its_end() -> None:
    inner: dict[str, object] = {"a": 1}
    inner["self"] = inner
    items: list[object] = [inner]
    items.append(items)
    assert lost(items) == [{"a": 1, "self": "<cycle>"}, "<cycle>"]


def test_a_value_within_the_limit_is_recorded_whole_at_any_depth() -> None:
    value: object = {"text": "x" * 50_000, "at": Plain()}
    for level in range(20):
        value = {"before": [Plain()], "inner": value, "after": {"level": level, "at": Plain()}}
    shown = told(value, 60_000)
    for _ in range(20):
        shown = shown["inner"]
    assert shown == {"text": "x" * 50_000, "at": "Plain()"}


def test_a_value_that_stands_twice_is_no_cycle() -> None:
    shared = [Plain()]
    assert told([shared, shared]) == [["Plain()"], ["Plain()"]]


def test_a_long_string_is_cut_in_place_with_its_length() -> None:
    shown = lost({"a": "x" * 5000, "b": "short"}, 1000)
    assert shown["b"] == "short"
    assert re.fullmatch(r"x{700,}…\[cut: 5000 characters\]", shown["a"])


def test_small_members_are_kept_beside_large_ones_which_share_the_room() -> None:
    shown = lost({"a": "x" * 10**6, "b": {"text": "y" * 10**6, "n": 1}, "c": "z" * 10**6, "model": "m"}, 60_000)
    assert shown["model"] == "m"
    assert shown["b"]["n"] == 1
    assert all(19_000 < len(part) < 21_000 for part in (shown["a"], shown["b"]["text"], shown["c"]))


def test_the_first_of_many_members_are_whole_and_the_rest_are_counted() -> None:
    message = {"role": "user", "content": "x" * 100}
    shown = lost([message] * 1000, 10_000)
    *kept, note = shown
    assert len(kept) > 50
    assert all(item == message for item in kept[:-32])
    assert note == f"…[cut: {1000 - len(kept)} items]"


def test_keys_beyond_the_limit_are_counted_under_a_name_of_their_own() -> None:
    shown = lost({"…[cut]": "mine", **{f"key{i}": i for i in range(1000)}}, 500)
    assert shown["…[cut]"] == "mine"
    assert shown["……[cut]"] == f"{1001 - (len(shown) - 1)} keys"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        "\0" * 10_000,
        '"' * 10_000,
        "😀" * 10_000,
        "\ud800" * 10_000,
        ["é" * 10] * 10_000,
        {"k" * 50 + str(i): i for i in range(10_000)},
        {"\0" * 200 + str(i): i for i in range(10_000)},
        [[["x" * 100] * 100] * 100] * 100,
        b"x" * 10_000,
        [Plain()] * 10_000,
        {i: [i] for i in range(10_000)},
        SimpleNamespace(**{f"k{i}": [Plain()] for i in range(1000)}),
        numpy.arange(1000),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("limit", [0, 1, 96, 97, 200, 1000, 4096, 5000, 20_000])
def test_the_result_is_never_longer_than_the_limit(value: object, limit: int) -> None:
    encoded, _ = encode(value, limit)
    strict(encoded)
    assert len(encoded) <= max(limit, 96)


def bomb(depth: int, leaf: object) -> object:
    """A nested list with ten to the power of `depth` values in a few hundred bytes."""
    value: object = [leaf] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


def clique() -> object:
    """Containers that all hold each other, with an astronomical number of paths."""
    every: list[list[object]] = [[] for _ in range(30)]
    for one in every:
        one.extend(every)
    return every


@pytest.mark.parametrize(
    "value",
    [
        bomb(15, "x"),
        bomb(15, Plain()),
        clique(),
        [{"k" * 1_000_000: 1}] * 10_000,
        [["x" * 1_000_000] * 10_000] * 10_000,
        list(range(300_000)),
        dict.fromkeys(range(300_000)),
    ],
    ids=["plain bomb", "bomb", "clique", "keys", "strings", "list", "dict"],
)
@pytest.mark.timeout(20)
def test_a_small_value_that_would_unfold_to_a_huge_one_is_cut(value: object) -> None:
    encoded, lossy = encode(value)
    strict(encoded)
    assert lossy
    assert len(encoded) <= 1 << 20


def test_plain_parts_of_a_large_careful_rendering_are_whole() -> None:
    embedding = [0.5] * 50_000
    assert told({"at": date(2026, 1, 1), "embedding": embedding})["embedding"] == embedding


# ---- hostile objects


def raiser(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error("from the value")

    return fail


ERRORS = [ValueError, TimeoutError, NotImplementedError, RecursionError, MemoryError]
LEAVING = [KeyboardInterrupt, SystemExit, GeneratorExit]


def hostile(error: type[BaseException], *names: str, base: type = object) -> Any:
    """An instance of a class whose methods `names` raise."""
    return type("Hostile", (base,), dict.fromkeys(names, raiser(error)))()


@pytest.mark.parametrize("error", ERRORS)
def test_a_repr_that_raises_leaves_a_note(error: type[BaseException]) -> None:
    assert lost([hostile(error, "__repr__"), "after"]) == ["<Hostile: repr failed>", "after"]


@pytest.mark.parametrize("error", LEAVING)
def test_what_is_no_exception_goes_through_from_anywhere(error: type[BaseException]) -> None:
    broken = hostile(error, "__repr__", "__str__", "__hash__")
    key = type("Key", (), {"__str__": raiser(error)})()
    for value in (broken, [broken], {key: 1}, ValueError(broken), SimpleNamespace(a=broken)):
        with pytest.raises(error):
            encode(value)
    with pytest.raises(error):
        text(broken, 10)
    with pytest.raises(error):
        describe_exception(type("Bad", (Exception,), {"__cause__": property(raiser(error))})())


@pytest.mark.parametrize("error", ERRORS)
def test_a_key_whose_str_raises_leaves_a_note(error: type[BaseException]) -> None:
    assert lost({hostile(error, "__str__"): 1, hostile(error, "__len__", "__str__"): 2}) == {
        "<key failed>": 1,
        "<key failed> (Hostile)": 2,
    }


def test_a_slot_that_is_not_set_leaves_a_note() -> None:
    value = Slotted("n")
    del value.inner
    assert lost(value) == {"name": "n", "inner": "<inner failed>"}


def test_slots_and_class_attributes_are_read() -> None:
    value = Shown("n")
    del value.__dict__["inner"]  # it is None in the class
    assert told(value) == {"name": "n", "inner": None, "secret": "<hidden>"}
    assert told(Slotted("n", [1])) == {"name": "n", "inner": [1]}


@pytest.mark.parametrize("error", ERRORS)
def test_a_field_that_is_a_property_is_not_read(error: type[BaseException]) -> None:
    class Lazy(Shown):
        inner = property(raiser(error), lambda self, value: None)

    assert lost(Lazy("n"))["inner"] == "<inner: not read>"
    assert lost(Lazy("n"))["name"] == "n"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["__iter__", "__len__", "__getitem__"])
def test_a_mapping_that_raises_leaves_a_note(error: type[BaseException], method: str) -> None:
    methods = {"__iter__": lambda self: iter(["a"]), "__len__": lambda self: 1, "__getitem__": lambda self, key: 1}
    broken = type("Broken", (Mapping,), {**methods, method: raiser(error)})()
    expected = {"a": "<value failed>"} if method == "__getitem__" else "<Broken: cannot be rendered>"
    assert lost([broken, 1]) == [expected, 1]


def test_a_class_with_a_false_class_attribute_is_recorded_by_its_true_name() -> None:
    class Meta(type):
        __name__ = property(raiser(ValueError))
        __module__ = property(raiser(ValueError))

    class Liar(metaclass=Meta):
        __class__ = property(raiser(ValueError))
        __repr__ = raiser(ValueError)

    assert lost([Liar()]) == ["<Liar: cannot be rendered>"]


def test_an_endless_mapping_or_sequence_is_cut() -> None:
    class Endless(Mapping[int, int]):
        def __iter__(self) -> Iterator[int]:
            number = 0
            while True:
                yield (number := number + 1)

        def __len__(self) -> int:
            return sys.maxsize

        def __getitem__(self, key: int) -> int:
            return key

    shown = lost(Endless(), 1000)
    assert shown["1"] == 1
    assert shown["…[cut]"].endswith(" keys")


def test_a_dict_subclass_is_recorded_by_its_stored_items() -> None:
    class Lazy(dict[str, int]):
        items = keys = values = __iter__ = __len__ = __getitem__ = raiser(ValueError)

    class Items(list[int]):
        __iter__ = __len__ = __getitem__ = raiser(ValueError)

    assert told([Lazy(a=1), Items([1, 2])]) == [{"a": 1}, [1, 2]]


def test_an_array_that_holds_itself_is_a_cycle() -> None:
    array = numpy.array([None], dtype=object)
    array[0] = array
    assert lost(array) == ["<cycle>"]


def test_a_repr_of_any_size_is_cut() -> None:
    class Long:
        def __repr__(self) -> str:
            return "r" * 10**6

    assert re.fullmatch(r"r{16384}…\[cut: 1000000 characters\]", lost([Long()])[0])


def test_a_huge_class_name_is_cut() -> None:
    assert len(lost(type("N" * 10**5, (), {"__repr__": raiser(ValueError)})())) < 100


@pytest.mark.parametrize("value", [[[1]], {"a": {"b": Plain()}}, Shown("n")])
def test_a_call_near_the_recursion_limit_still_gives_strict_json(value: object) -> None:
    def descend() -> None:
        try:
            descend()
        except RecursionError:
            results.append(encode(value)[0])
            raise

    results: list[bytes] = []
    with pytest.raises(RecursionError):
        descend()
    assert len(results) > 50
    for encoded in results:
        strict(encoded)
    assert results[-1] == encode(value)[0]


class Resized(Mapping[str, int]):
    """A mapping that changes its size during the first iterations, as by another thread."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __iter__(self) -> Iterator[str]:
        yield "a"
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("dictionary changed size during iteration")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        return 1


def test_a_container_that_is_resized_meanwhile_is_read_again_a_few_times() -> None:
    assert told(Resized(3)) == {"a": 1}
    assert lost([Resized(4), 1]) == ["<Resized: cannot be rendered>", 1]


def test_containers_that_another_thread_keeps_changing_give_strict_json() -> None:
    shared: dict[str, Any] = {"fixed": 1}
    items: list[Any] = []
    done = threading.Event()

    def mutate() -> None:
        number = 0
        while not done.is_set():
            number += 1
            shared[f"k{number % 97}"] = [math.nan, object(), "x", {1: 2}][number % 4]
            shared.pop(f"k{(number * 7) % 97}", None)
            items.append(shared if number % 50 == 0 else number)
            if len(items) > 200:
                items.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        for _ in range(300):
            shown = strict(encode({"shared": shared, "items": items})[0])
            assert shown["shared"]["fixed"] == 1
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


class Evil:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error(name)

    def __repr__(self) -> str:
        raise self.error

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**5000), max_value=2**5000),
    st.floats(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.complex_numbers(),
    st.uuids(),
    st.sampled_from(ERRORS).map(Evil),
    st.builds(lambda: 10**5000),
    st.sampled_from([Plain(), Colour.NESTED, Level.HIGH, object, len, ..., NotImplemented, "x" * 3000]),
)
trees = st.recursive(
    anything,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(deque),
        st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
        st.dictionaries(anything, inner),
        st.frozensets(anything),
        inner.map(lambda value: Shown("n", value)),
        inner.map(ValueError),
    ),
    max_leaves=40,
)


@given(value=trees, limit=st.sampled_from([1 << 20, 4096, 300, 0]))
@settings(max_examples=3 * settings().max_examples)
def test_any_tree_of_values_becomes_strict_json_within_the_limit(value: object, limit: int) -> None:
    encoded, _ = encode(value, limit)
    strict(encoded)
    assert len(encoded) <= max(limit, 96)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=plain)
@settings(deadline=None)
def test_any_plain_json_comes_back_equal_and_is_the_same_by_either_way(value: object) -> None:
    encoded, lossy = encode(value)
    assert (strict(encoded), lossy) == (value, False)
    carefully, lossy = render(value, 1 << 20, lambda *_: (None, 0))
    assert (strict(carefully), lossy) == (value, False)


# ---- the choice of the encoder


def test_the_encoder_is_chosen_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_dumps", snapshot._choose_dumps)
    assert encode({"a": 1}) == (b'{"a":1}', False)
    assert snapshot._dumps is not snapshot._choose_dumps


def test_without_orjson_the_standard_library_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    monkeypatch.setattr(snapshot, "_dumps", snapshot._choose_dumps)
    assert encode({"a": 1.0}) == (b'{"a":1.0}', False)


def test_an_interpreter_without_the_c_encoder_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot._stdlib, "c_make_encoder", None)
    monkeypatch.setattr(snapshot, "_dumps", snapshot._standard_dumps())
    assert encode({"a": [1, "é"]}) == ('{"a":[1,"é"]}'.encode(), False)
    assert encode([math.nan]) == (b'["NaN"]', True)


def test_an_encoder_that_meets_what_was_put_in_after_the_check_gives_way() -> None:
    with pytest.raises(TypeError):
        ENCODERS["stdlib"]([object()])


# ---- names and exceptions


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        ("search", 255, "search"),
        (None, 255, "None"),
        (5, 255, "5"),
        ("abcdef", 4, "abc…"),
        ("abcd", 4, "abcd"),
        ("abc", 0, ""),
        ("a\0b\ud800\ud83d\ude00", 255, "a\ufffdb\ufffd😀"),
        (Plain(), 255, "Plain()"),
        (Name("n"), 255, "<Name: str failed>"),
        (Evil(ValueError), 255, "<Evil: str failed>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_name_is_recorded_as_a_short_text(value: object, limit: int, expected: str) -> None:
    assert text(value, limit) == expected


def failure(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("did not fail")


def test_an_exception_is_described_by_type_message_and_traceback() -> None:
    told = describe_exception(failure(lambda: json.loads("{")))
    assert told["type"] == "json.decoder.JSONDecodeError"
    assert told["message"].startswith("Expecting property name")
    lines = told["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert re.fullmatch(r'  File ".*test_snapshot.py", line \d+, in failure', lines[1])
    assert lines[2] == "    function()"
    assert lines[-1] == f"{told['type']}: {told['message']}"


def test_a_traceback_reads_as_python_prints_it_with_what_led_to_it() -> None:
    def middle() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    def last() -> None:
        try:
            middle()
        except ValueError:
            raise RuntimeError from None

    def context() -> None:
        try:
            middle()
        except ValueError:
            raise TypeError("third")

    traceback = describe_exception(failure(context))["traceback"]
    order = ["KeyError: 'first'", "direct cause", "ValueError: second", "During handling", "TypeError: third"]
    assert [traceback.index(part) for part in order] == sorted(traceback.index(part) for part in order)
    suppressed = describe_exception(failure(last))["traceback"]
    assert suppressed.endswith("\nRuntimeError")
    assert "second" not in suppressed


def test_an_exception_that_was_never_raised_has_no_frames() -> None:
    assert describe_exception(ValueError("x")) == {"type": "ValueError", "message": "x", "traceback": "ValueError: x"}


def test_a_deep_traceback_keeps_its_outermost_and_innermost_frames() -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        raise ValueError("bottom")

    told = describe_exception(failure(lambda: dive(200)))
    lines = told["traceback"].splitlines()
    assert "in failure" in lines[1]
    assert "  …[cut: 171 frames]" in lines
    assert "raise ValueError" in lines[-2]


def test_a_long_traceback_is_cut_in_the_middle_to_its_limit() -> None:
    error = ValueError("m" * 100_000)
    told = describe_exception(failure(lambda: raiser(KeyError)()), 100)
    assert len(told["traceback"]) == 100
    assert told["traceback"].startswith("Traceback")
    assert told["traceback"].endswith("'from the value'")
    assert {len(part) for part in describe_exception(error, 1000).values()} == {10, 1000}


def test_a_chain_that_bites_its_tail_or_never_ends_is_cut() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert describe_exception(first)["traceback"].count("ValueError") == 2
    error = ValueError("0")
    for number in range(10_000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    assert describe_exception(error)["traceback"].count("ValueError") == 8
    while error.__cause__ is not None:  # their own destructors would recurse
        error, error.__cause__ = error.__cause__, None


def test_an_exception_group_is_described_with_its_first_members() -> None:
    group: Any = getattr(__import__("builtins"), "ExceptionGroup", None) or OldGroup
    nested = group("inner", [KeyError("k")])
    told = describe_exception(group("outer", [nested, *(ValueError(str(i)) for i in range(6))]))["traceback"]
    if group is OldGroup:
        assert told == "tests.unit.serialization.test_snapshot.OldGroup: outer (7 sub-exceptions)"
    else:
        assert "  |   | KeyError: 'k'" in told
        assert told.endswith("  | ValueError: 3\n  | …[cut: 2 exceptions]")


class OldGroup(Exception):
    """Python 3.10, which has no exception groups."""

    def __init__(self, message: str, exceptions: list[Exception]) -> None:
        super().__init__(f"{message} ({len(exceptions)} sub-exceptions)")


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_whose_str_raises_is_described_all_the_same(error: type[BaseException]) -> None:
    told = describe_exception(hostile(error, "__str__", base=Exception))
    assert told["message"] == "<Hostile: str failed>"
    assert told["type"].endswith(".Hostile")


def test_an_exception_that_cannot_be_read_is_described_by_its_class() -> None:
    broken = type("Broken", (Exception,), {"__cause__": property(raiser(ValueError))})("x")
    assert describe_exception(broken) == {"type": "Broken", "message": "<cannot be read>", "traceback": ""}


def test_a_description_holds_on_to_no_frame() -> None:
    error = failure(lambda: 1 / 0)
    references = sys.getrefcount(error.__traceback__)
    told = describe_exception(error)
    after = sys.getrefcount(error.__traceback__)
    assert after == references
    assert all(type(part) is str for part in told.values())


# ---- time ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the processor time advance by a millisecond with each look. Returns the looks."""
    looks: list[int] = []

    def look() -> int:
        looks.append(len(looks) * 1_000_000)
        return looks[-1]

    monkeypatch.setattr(fallback, "thread_time_ns", look)
    monkeypatch.setattr(fallback, "_CPU_NS", 6_000_000)
    return looks


@pytest.mark.parametrize(
    "value",
    [
        [Shown(str(number)) for number in range(5_000)],
        {number: number for number in range(100_000)},
        {(number,): Shown("n") for number in range(5_000)},
        [{number} for number in range(5_000)],
        deque([Shown(str(number)) for number in range(5_000)]),
    ],
    ids=["dataclasses", "keys", "keys and dataclasses", "sets", "deque"],
)
def test_members_for_which_there_is_no_time_are_counted(value: Any, slow_clock: list[int]) -> None:
    shown = lost(value)
    note = str(shown["…[cut]"] if isinstance(shown, dict) else shown[-1])
    (cut,) = map(int, re.findall(r"\d+", note))
    assert 0 < len(shown) - 1 < 1000
    assert len(shown) - 1 + cut == len(value)
    assert len(slow_clock) < 10


def test_a_small_value_is_whole_however_slow_the_clock_is(slow_clock: list[int]) -> None:
    assert len(told([Shown(str(number)) for number in range(7)])) == 7


def test_foreign_code_that_waits_ends_the_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    class Waiting:
        def __repr__(self) -> str:
            now[0] += 10_000_000
            return "done"

    monkeypatch.setattr(fallback, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(fallback, "_WALL_NS", 200_000_000)
    shown = lost([Waiting() for _ in range(1000)])
    assert 0 < len(shown) < 100
