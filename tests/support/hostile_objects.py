"""Objects whose methods fail, lie or never end. A tracing SDK must survive them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FailingText(str):
    """A `str` whose own methods fail."""

    def __str__(self) -> str:
        raise ArithmeticError("str")

    def __repr__(self) -> str:
        raise ArithmeticError("repr")

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("eq")

    def __hash__(self) -> int:
        raise ArithmeticError("hash")

    def __bool__(self) -> bool:
        raise ArithmeticError("bool")

    def __len__(self) -> int:
        raise ArithmeticError("len")


class FailingClass:
    """An object whose `__class__` raises."""

    @property
    def __class__(self) -> Any:
        raise ArithmeticError("class")


class FakeText:
    """An object whose `__class__` is `str`, although it is no `str`."""

    @property
    def __class__(self) -> Any:
        return str


class FailingObject:
    """An object whose special methods and attributes all raise."""

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("asked")

    __str__ = __repr__ = __hash__ = __eq__ = __bool__ = __len__ = __iter__ = __index__ = __float__ = _fail
    __lt__ = __gt__ = __le__ = __ge__ = __ne__ = __neg__ = __int__ = __call__ = __enter__ = __get__ = _fail

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("attribute")


class OddDict(dict[str, Any]):
    """A dict in which every method for reading that a class can override raises."""

    def __iter__(self) -> Any:
        raise ArithmeticError("iter")

    keys = items = values = __getitem__ = copy = __iter__


class OddNumber(float):
    """A number whose comparisons raise."""

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("compared")

    __lt__ = __gt__ = __le__ = __ge__ = __ne__ = __round__ = __float__ = __eq__

    def __hash__(self) -> int:
        raise ArithmeticError("hashed")


def cycle() -> list[Any]:
    """A list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


HOSTILE: tuple[Callable[[], Any], ...] = (
    lambda: FailingText("trap"),
    FailingClass,
    FakeText,
    FailingObject,
    lambda: OddDict(a=1),
    lambda: OddNumber(1.0),
    cycle,
    lambda: "\ud800\0",
    lambda: b"\xff",
    lambda: float("nan"),
    lambda: 10**5000,
    lambda: {("a",): {1: object()}, "1": {1}},
    lambda: ValueError(FailingObject()),
    lambda: (item for item in "ab"),
    lambda: Exception,
)
"""Factories, because a test runner would inspect the objects themselves."""
