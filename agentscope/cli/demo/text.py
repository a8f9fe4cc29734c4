"""What the sample agent knows about text: words, chunks, ranking and key sentences. Pure, and without any model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_WORD = re.compile(r"[^\W\d_]{3,30}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_CODE = frozenset('={}[]<>_\\"')
_MARKUP = re.compile(r"^[\s#>*/|;\"'`=~-]+|[`*|]")

_COMMON = """
file files say says about after again all also and any are because been before being between both but can could did does doing
each else even every few for from had has have here how into its itself just let may more most must never none not now off
once one only other our out over own per same self should since some such than that the their them then there these
they this those through too two under until upon use used uses using very was way were what when where which while
who why will with without would yet you your args class def elif except false finally import kwargs lambda none null
pass print raise return str int true try type bool dict list tuple string value values name
"""

STOPWORDS = frozenset(_COMMON.split())


class Chunk(NamedTuple):
    """A passage of one file."""

    path: str
    text: str


class Match(NamedTuple):
    """A passage that answers a query, and how well; scores compare within one search only."""

    path: str
    text: str
    score: float


def words(text: str) -> list[str]:
    """The words worth counting, in lower case and in order."""
    return [word for word in _WORD.findall(text.lower()) if word not in STOPWORDS]


def split(path: str, text: str, size: int = 700) -> list[Chunk]:
    """Cut a file into passages of about `size` characters, at blank lines where there are some."""
    chunks: list[Chunk] = []
    held = ""
    for paragraph in re.split(r"\n\s*\n", text):
        while len(paragraph) > size:
            end = max(paragraph.rfind(" ", 0, size), paragraph.rfind("\n", 0, size)) + 1 or size
            chunks.append(Chunk(path, paragraph[:end]))
            paragraph = paragraph[end:]
        if held and len(held) + len(paragraph) > size:
            chunks.append(Chunk(path, held))
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if held.strip():
        chunks.append(Chunk(path, held))
    return chunks


class Index:
    """Passages, searchable. Ranking is BM25: rare words weigh more, repetition and length weigh less and less."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self.chunks = list(chunks)
        self._counts = [Counter(words(chunk.text)) for chunk in self.chunks]
        self._frequency = Counter(word for count in self._counts for word in count)
        self._lengths = [sum(count.values()) for count in self._counts]
        self._average = max(1.0, sum(self._lengths) / max(1, len(self._lengths)))

    def search(self, query: str, top: int = 4) -> list[Match]:
        """The best passages, one a file, best first; empty when no word of the query occurs."""
        wanted = set(words(query))
        best: dict[str, Match] = {}
        for chunk, count, length in zip(self.chunks, self._counts, self._lengths, strict=True):
            norm = 1.2 * (0.25 + 0.75 * length / self._average)
            score = sum(self._rarity(w) * count[w] * 2.2 / (count[w] + norm) for w in wanted if w in count)
            if score > 0 and (chunk.path not in best or score > best[chunk.path].score):
                best[chunk.path] = Match(chunk.path, chunk.text, round(score, 3))
        return sorted(best.values(), key=lambda match: (-match.score, match.path))[:top]

    def topics(self, top: int = 5) -> list[str]:
        """The words that say most about these files: frequent, in several passages, and not in all of them."""
        total: Counter[str] = Counter()
        for count in self._counts:
            total.update(count)
        most = max(1, len(self.chunks) // 2)
        least = 2 if len(self.chunks) > 3 else 1
        weight = {
            word: math.log1p(times) * self._rarity(word)
            for word, times in total.items()
            if len(word) > 4 and least <= self._frequency[word] <= max(most, least)
        }
        return sorted(weight, key=lambda word: (-weight[word] * math.log(1 + self._frequency[word]), word))[:top]

    def _rarity(self, word: str) -> float:
        seen = self._frequency[word]
        return math.log(1 + (len(self.chunks) - seen + 0.5) / (seen + 0.5))


def sentences(text: str) -> list[str]:
    """What reads like prose: sentences of 6 to 40 words, without markup, tables and code."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [_MARKUP.sub("", line).strip() for line in paragraph.splitlines()]
        for sentence in _SENTENCE_END.split(" ".join(line for line in lines if line)):
            letters = sum(c.isalpha() or c == " " for c in sentence)
            prose = letters >= 0.88 * len(sentence) and not _CODE.intersection(sentence)
            if prose and sentence[:1].isupper() and sentence[-1] in ".!?" and 6 <= len(sentence.split()) <= 40:
                found.append(sentence)
    return found


def key_sentences(texts: Sequence[str], query: str = "", top: int = 3) -> list[str]:
    """The sentences that hold most of what the texts are about; those with a word of `query` come before all others."""
    asked = set(words(query))
    candidates = list(dict.fromkeys(sentence for text in texts for sentence in sentences(text)))
    common = Counter(word for text in texts for word in words(text))

    def weight(sentence: str) -> tuple[int, float]:
        held = set(words(sentence))
        return len(held & asked), sum(math.log1p(common[word]) for word in held) / math.sqrt(len(sentence.split()))

    chosen = sorted(candidates, key=weight, reverse=True)[:top]
    return [sentence for sentence in candidates if sentence in chosen]
