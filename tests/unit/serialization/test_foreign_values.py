"""Values of popular libraries: rows and queries of databases are never asked, tables are shown by their first rows."""

from __future__ import annotations

import dataclasses
import os
import shelve
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from agentscope.serialization.exceptions import describe_exception
from tests.unit.serialization.test_snapshot import lost, told


def foreign(name: str, module: str, **members: Any) -> type:
    """Make a class as it would be in another library."""
    return type(name, (), {"__module__": module, **members})


def refuse(*_: object) -> Any:
    raise AssertionError("it was asked")


ASKING = dict.fromkeys(("__repr__", "__len__", "__iter__", "__getitem__", "__str__"), refuse)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("QuerySet", "django.db.models.query"),
        ("BaseManager", "django.db.models.manager"),
        ("LazyObject", "django.utils.functional"),
        ("BaseQuerySet", "mongoengine.queryset.base"),
        ("BaseQuery", "peewee"),
        ("Query", "sqlalchemy.orm.query"),
        ("DataFrame", "pyspark.sql.dataframe"),
        ("Expr", "ibis.expr.types.core"),
        ("HLObject", "h5py._hl.base"),
    ],
)
def test_a_lazy_collection_is_named_and_not_asked(name: str, module: str) -> None:
    own = type("Mine", (foreign(name, module, **ASKING),), {})
    assert lost([own()]) == ["<Mine: not read>"]


def test_a_query_set_that_was_read_before_shows_what_it_read() -> None:
    queried = foreign("QuerySet", "django.db.models.query", **ASKING)()
    queried._result_cache = [1, 2]
    assert told(queried) == [1, 2]


def test_a_lazy_object_that_was_loaded_before_shows_what_it_loaded() -> None:
    row = foreign("User", "app.models", _meta=None, **ASKING)()
    row.__dict__.update(_state=object(), id=7)
    lazy = foreign("LazyObject", "django.utils.functional", **ASKING)()
    lazy._wrapped = row
    assert told(lazy) == {"id": 7}


def test_a_shelf_is_not_read(tmp_path: Path) -> None:
    with shelve.open(str(tmp_path / "shelf")) as shelf:
        shelf["a"] = 1
        assert lost(shelf) == "<DbfilenameShelf: not read>"


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (
            foreign("Row", "app.models", __mapper__=None, **ASKING),
            {"_sa_instance_state": object(), "id": 1, "name": "n"},
        ),
        (foreign("Row", "app.models", _meta=None, **ASKING), {"_state": object(), "id": 1, "name": "n"}),
        (foreign("Row", "app.models", _meta=None, **ASKING), {"__data__": {"id": 1, "name": "n"}, "__rel__": {}}),
    ],
    ids=["SQLAlchemy", "Django", "peewee"],
)
def test_a_row_of_a_database_shows_what_is_loaded_of_it(kind: type, state: dict[str, Any]) -> None:
    row = kind()
    row.__dict__.update(state)
    assert told(row) == {"id": 1, "name": "n"}


def test_a_column_of_a_dataclass_that_is_not_loaded_is_not_asked_for() -> None:
    class Column:
        def __get__(self, row: object, owner: type) -> Any:
            return refuse()

        def __set__(self, row: Any, value: object) -> None:
            row.__dict__["posts"] = value

    @dataclasses.dataclass
    class User:
        id: int
        posts: Any = None

    user = User(1, [2])
    User.posts = Column()
    assert told(user) == {"id": 1, "posts": [2]}
    del user.__dict__["posts"]
    assert lost(user) == {"id": 1, "posts": "<posts: not read>"}


# ---- numbers and tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.datetime64("2026-01-31T12:00:00.123456789"), "2026-01-31T12:00:00.123456789"),
        (numpy.datetime64("2026-01"), "2026-01"),
        (numpy.timedelta64(-5, "s"), "-5 seconds"),
        (numpy.array(["2026-01-31", "NaT"], dtype="M8[ns]"), ["2026-01-31T00:00:00.000000000", "NaT"]),
    ],
)
def test_times_of_numpy_are_texts(value: object, expected: object) -> None:
    assert told(value) == expected


@pytest.fixture
def pandas() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for further libraries
        yield pytest.importorskip("pandas", reason="needs pandas, which is no part of the dev extra")


class Frame:
    """A table as pandas has it, as far as a snapshot uses it."""

    def __init__(self, rows: list[list[Any]], columns: list[str]) -> None:
        self.shape = (len(rows), len(columns))
        self.columns, self.index = columns, range(len(rows))
        self._rows = rows

    @property
    def iloc(self) -> Any:
        return _Slices(self)

    def to_dict(self, form: str) -> dict[str, Any]:
        assert form == "split"
        return {"data": self._rows}


class _Slices:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __getitem__(self, where: tuple[slice, slice]) -> Frame:
        rows, columns = where
        return type(self._frame)([row[columns] for row in self._frame._rows[rows]], self._frame.columns[columns])


DataFrame = type("DataFrame", (Frame,), {"__module__": "pandas.core.frame"})


def test_a_table_shows_its_shape_and_its_first_rows() -> None:
    table = DataFrame([[number, f"row {number}"] for number in range(1000)], ["n", "text"])
    shown = lost(table)
    assert (shown["shape"], shown["columns"], shown["index"]) == ([1000, 2], ["n", "text"], list(range(10)))
    assert shown["data"] == [[number, f"row {number}"] for number in range(10)]


def test_a_small_table_is_shown_whole() -> None:
    assert told(DataFrame([[1], [2]], ["n"])) == {
        "shape": [2, 1],
        "columns": ["n"],
        "index": [0, 1],
        "data": [[1], [2]],
    }


def test_a_wide_table_shows_its_first_columns() -> None:
    shown = lost(DataFrame([list(range(1000))], [f"c{number}" for number in range(1000)]))
    assert (len(shown["columns"]), shown["data"]) == (100, [list(range(100))])


def test_tables_of_pandas_itself(pandas: Any) -> None:
    frame = pandas.DataFrame({"a": range(30), "at": pandas.date_range("2026-01-31", periods=30)})
    assert lost(frame)["data"][0] == [0, "2026-01-31T00:00:00"]
    assert told(pandas.Series([1.5, 2.5], index=["x", "y"])) == {"shape": [2], "index": ["x", "y"], "data": [1.5, 2.5]}


# ---- exceptions -------------------------------------------------------------------------------------------------------


def test_the_notes_of_an_exception_follow_its_message() -> None:
    error = ValueError("bad answer")
    error.__notes__ = ["document=17", "page=3"]  # type: ignore[attr-defined]  # add_note() is new in Python 3.11
    assert describe_exception(error)["traceback"].splitlines()[-3:] == [
        "ValueError: bad answer",
        "document=17",
        "page=3",
    ]


@pytest.mark.parametrize("notes", [None, 5, "text", object()])
def test_notes_that_are_no_list_are_left_out(notes: object) -> None:
    error = ValueError("bad answer")
    error.__notes__ = notes  # type: ignore[attr-defined]  # as above
    assert describe_exception(error)["traceback"].splitlines()[-1] == "ValueError: bad answer"


def raised_in(path: str) -> BaseException:
    try:
        exec(compile("raise ValueError('x')", path, "exec"))
    except ValueError as error:
        return error
    raise AssertionError


def test_a_source_line_is_shown_of_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("the line\n")
    assert "    the line" in describe_exception(raised_in(str(tmp_path / "code.py")))["traceback"]


def test_a_pipe_that_code_names_as_its_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer for ever
    assert describe_exception(raised_in(str(tmp_path / "pipe")))["message"] == "x"


def test_a_huge_file_that_code_names_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("w") as file:
        file.write("the line\n")
        file.truncate(1 << 22)
    assert "the line" not in describe_exception(raised_in(str(tmp_path / "huge")))["traceback"]


@pytest.mark.parametrize("path", ["", "<string>", "/no/such/file"])
def test_code_without_a_file_has_no_source_line(path: str) -> None:
    *_, place, last = describe_exception(raised_in(path))["traceback"].splitlines()
    assert (place, last) == (f'  File "{path}", line 1, in <module>', "ValueError: x")
