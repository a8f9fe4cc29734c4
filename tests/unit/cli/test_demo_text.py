"""The sample agent's text tools."""

from __future__ import annotations

from agentscope.cli.demo.text import Chunk, Index, key_sentences, sentences, split, words


def test_words_leave_out_digits_short_words_and_stopwords() -> None:
    assert words("The Queue holds 42 events of it") == ["queue", "holds", "events"]


def test_split_packs_paragraphs_up_to_the_size() -> None:
    chunks = split("a", "one\n\ntwo\n\n" + "x" * 695, size=700)
    assert [chunk.text for chunk in chunks] == ["one\n\ntwo", "x" * 695]


def test_split_cuts_a_paragraph_that_is_longer_than_the_size() -> None:
    assert [len(chunk.text) for chunk in split("a", "x" * 1500, size=700)] == [700, 700, 100]


def test_split_cuts_between_words_where_there_are_any() -> None:
    assert [chunk.text for chunk in split("a", "word " * 4, size=12)] == ["word word ", "word word "]


def test_split_of_blank_text_is_empty() -> None:
    assert split("a", " \n\n \n") == []


def test_search_prefers_the_passage_that_holds_the_rarer_word() -> None:
    index = Index([Chunk("common", "events queue"), Chunk("rare", "events spool"), Chunk("other", "events batch")])
    assert index.search("events spool")[0].path == "rare"


def test_search_gives_each_file_once_with_its_best_passage() -> None:
    index = Index([Chunk("a", "spool and much more beside"), Chunk("a", "spool spool"), Chunk("b", "queue")])
    matches = index.search("spool")
    assert [(match.path, match.text) for match in matches] == [("a", "spool spool")]


def test_search_keeps_the_better_passage_whichever_comes_first() -> None:
    index = Index([Chunk("a", "spool spool"), Chunk("a", "spool between many other tokens"), Chunk("b", "queue")])
    assert index.search("spool")[0].text == "spool spool"


def test_search_finds_nothing_for_unknown_words_and_in_nothing() -> None:
    assert Index([Chunk("a", "queue")]).search("zebra") == []
    assert Index([]).search("zebra") == []


def test_topics_are_words_of_several_passages_but_not_of_all() -> None:
    shared = ["everywhere exporter one", "everywhere exporter two", "everywhere three", "everywhere four", "everywhere"]
    assert Index([Chunk(str(n), text) for n, text in enumerate(shared)]).topics() == ["exporter"]


def test_topics_of_nothing_are_none() -> None:
    assert Index([]).topics() == []


def test_sentences_are_prose_without_markup_and_code() -> None:
    prose = "> The **queue** is bounded in bytes, and counted."
    text = f"# Title\n\n{prose}\n\nx = foo(1, 2); y = bar[3] + {{4: 5}} - (6 * 7).\n\nToo short."
    assert sentences(text) == ["The queue is bounded in bytes, and counted."]


def test_key_sentences_are_those_that_answer_the_query_in_their_own_order() -> None:
    text = (
        "The worker sends every batch to the backend in time. A cat sat there on the mat all day. "
        "The spool keeps every event on disk for later. The garden is full of flowers in early spring."
    )
    assert key_sentences([text], "spool worker", top=2) == [
        "The worker sends every batch to the backend in time.",
        "The spool keeps every event on disk for later.",
    ]


def test_key_sentences_of_nothing_are_none() -> None:
    assert key_sentences([], "spool") == []
