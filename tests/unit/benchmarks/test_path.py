"""`benchmarks.path` counts the functions of one package that are called, by thread, and prints the modules in order."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.path import CALLER, Call, Profile, document, label, others, paths, table

SOURCE = """
def outer():
    for _ in range(2):
        inner()
    return list(map(lambda x: x, [x for x in (1, 2)]))

def inner():
    pass
"""
THREADS = {
    CALLER: [Call("sdk.face", "track", 1)],
    "sender": [Call("sdk.queue", "get", 2), Call("sdk.http", "post", 1), Call("sdk.queue", "put", 1)],
    "writer": [Call("sdk.queue", "get", 1), Call("sdk.file", "write", 1)],
}


@pytest.fixture
def sdk() -> ModuleType:
    module = ModuleType("sdk.part")
    exec(SOURCE, module.__dict__)
    return module


@contextmanager
def profiled(profile: Profile) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_functions_of_the_package_are_counted_and_no_others(sdk: ModuleType) -> None:
    profile = Profile("sdk")
    profile.recording = True
    with profiled(profile):
        sdk.outer()
        Path("a").joinpath("b")
    assert profile.threads() == {CALLER: [Call("sdk.part", "outer", 1), Call("sdk.part", "inner", 2)]}


def test_a_package_whose_name_begins_alike_is_another(sdk: ModuleType) -> None:
    profile = Profile("sd")
    profile.recording = True
    with profiled(profile):
        sdk.outer()
    assert profile.threads() == {}


def test_calls_count_while_recording_only(sdk: ModuleType) -> None:
    profile = Profile("sdk")
    with profiled(profile):
        sdk.outer()
    assert profile.threads() == {}


def test_threads_are_told_apart(sdk: ModuleType) -> None:
    profile = Profile("sdk")
    profile.recording = True

    def work() -> None:
        with profiled(profile):
            sdk.inner()

    thread = threading.Thread(target=work, name="sender")
    thread.start()
    thread.join()
    assert profile.threads() == {"sender": [Call("sdk.part", "inner", 1)]}


def test_a_function_that_two_threads_call_counts_once_for_the_worker() -> None:
    assert others(THREADS) == [
        Call("sdk.queue", "get", 3),
        Call("sdk.http", "post", 1),
        Call("sdk.queue", "put", 1),
        Call("sdk.file", "write", 1),
    ]


def test_the_table_has_a_line_for_the_caller_and_one_for_the_worker() -> None:
    _, caller, worker = (line.split() for line in table({"SDK": THREADS}).splitlines())
    assert caller == ["SDK", "caller", "1", "1", "1"]
    assert worker == ["SDK", "worker", "3", "4", "6"]


def test_a_path_names_each_module_once_in_the_order_of_its_first_call() -> None:
    assert [line.strip() for line in paths(THREADS)] == [
        *("caller", "sdk.face"),
        *("sender", "sdk.queue", "sdk.http"),
        *("writer", "sdk.queue", "sdk.file"),
    ]
    assert "      put 1" in list(paths(THREADS, functions=True))


def test_a_label_names_the_checkout_where_there_are_several() -> None:
    assert label(Path("."), []) == label(Path("a"), [Path("a")]) == "AgentScope"
    assert label(Path("a"), [Path("a"), Path("b")]) == "AgentScope a"


def test_the_document_holds_the_calls_as_plain_values() -> None:
    assert document({CALLER: THREADS[CALLER]}) == {
        CALLER: [{"module": "sdk.face", "function": "track", "count": 1}],
    }
