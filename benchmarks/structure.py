"""The size and shape of the package's source: names, import levels, circles, lines, functions and docstrings.

    python -m benchmarks.structure                          this checkout
    python -m benchmarks.structure ../before .              two checkouts beside each other
    python -m benchmarks.structure --docstrings 30 --seed 7 30 docstrings drawn at random, to be read
    python -m benchmarks.structure --riddles                the docstrings that open with one of RIDDLES

Only source text is read, so that a checkout of any age can be measured, and nothing needs to be installed.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RIDDLES = ("What", "Who", "Whether", "Where", "So", "Somebody")
"""First words that make a reader read on before the subject of a sentence is known."""
Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Docstring:
    """place: `path:line` from the checkout's root. text: without its indentation."""

    place: str
    text: str

    @property
    def is_riddle(self) -> bool:
        return re.match(r"\W*(\w*)", self.text)[1] in RIDDLES  # type: ignore[index]  # it matches any text


class Source:
    """The modules of one package below the root of a checkout, parsed."""

    def __init__(self, root: Path, package: str = "agentscope") -> None:
        self.root = root
        self.package = package
        self.paths = {self._name(path): path for path in sorted((root / package).rglob("*.py"))}
        if not self.paths:
            raise SystemExit(f"{root} has no package {package}")
        texts = {module: path.read_text(encoding="utf-8") for module, path in self.paths.items()}
        self.lines = {module: text.count("\n") for module, text in texts.items()}
        self.trees = {module: ast.parse(text) for module, text in texts.items()}

    def _name(self, path: Path) -> str:
        return ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    @cached_property
    def imports(self) -> Graph:
        """The modules that each module imports, inside functions and under TYPE_CHECKING too."""
        return {module: set(self._imported(module)) - {module} for module in self.trees}

    def _imported(self, module: str) -> Iterator[str]:
        package = module if self.paths[module].name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(self.trees[module]):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1] if node.level else []
                base = ".".join([*kept, node.module] if node.module else kept)
                # `from package import module` names the module, `from module import name` does not.
                named = [
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in self.paths else base for alias in node.names
                ]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
                named = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (name for name in named if name in self.paths)

    def folder(self, module: str) -> str:
        """Return the name at the package's root that a module belongs to; empty for `__init__` and `__main__` of the root."""
        name = [*module.split("."), ""][1]
        return "" if name == "__main__" else name

    @cached_property
    def folders(self) -> Graph:
        """The imports between names at the package's root. The package's own `__init__` is left out: it is above all others."""
        found: dict[str, set[str]] = {name: set() for name in self.root_names}
        for module, targets in self.imports.items():
            if source := self.folder(module):
                found[source] |= {self.folder(target) for target in targets} - {source, ""}
        return found

    @property
    def root_names(self) -> list[str]:
        return sorted({self.folder(module) for module in self.paths} - {""})

    @cached_property
    def functions(self) -> list[str]:
        """The names of all functions and methods, one for each definition."""
        return [node.name for node in self._walk() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    @cached_property
    def used_once(self) -> list[str]:
        """The functions whose name is defined once and mentioned once in the package. An import is no mention."""
        defined = Counter(self.functions)
        mentions = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in self._walk()
            if isinstance(node, ast.Name | ast.Attribute)
        )
        return sorted(name for name in defined if defined[name] == mentions[name] == 1)

    @cached_property
    def docstrings(self) -> list[Docstring]:
        """Docstrings of modules, classes, functions and attributes, in the order of the source."""
        return [
            Docstring(f"{self.paths[module].relative_to(self.root)}:{line}", text)
            for module, tree in self.trees.items()
            for line, text in sorted(_docstrings(tree))
        ]

    def _walk(self) -> Iterator[ast.AST]:
        for tree in self.trees.values():
            yield from ast.walk(tree)


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for statement in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(text := statement.value.value, str)
            ):
                yield statement.lineno, "\n".join(line.strip() for line in text.strip().splitlines())


def circles(graph: Graph) -> list[list[str]]:
    """Find the strongly connected components of more than one node, by the algorithm of Tarjan."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def levels(graph: Graph) -> dict[str, int]:
    """Compute the import level of each node: 1 if it imports no other, else 1 more than the highest level that it imports.

    The nodes of a circle have one level together.
    """
    members = {node: tuple(circle) for circle in circles(graph) for node in circle}
    found: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in found:
            circle = members.get(node, (node,))
            below = {target for member in circle for target in graph[member]}.difference(circle)
            found.update(dict.fromkeys(circle, 1 + max(map(level, sorted(below)), default=0)))
        return found[node]

    return {node: level(node) for node in graph}


def rows(source: Source) -> list[tuple[str, str]]:
    """Return the figures of one checkout, each with its name and its value."""
    longest = sorted(source.lines.items(), key=lambda item: -item[1])
    riddles = sum(docstring.is_riddle for docstring in source.docstrings)
    folder_circles, module_circles = circles(source.folders), circles(source.imports)
    lines = sum(source.lines.values())
    return [
        ("names at the package's root", str(len(source.root_names))),
        ("levels of imports, by those names", str(max(levels(source.folders).values(), default=0))),
        ("circles between those names", str(len(folder_circles))),
        ("circles between modules", str(len(module_circles))),
        ("modules", str(len(source.paths))),
        ("lines", f"{lines:,}".replace(",", " ")),
        ("lines of a module, mean", f"{lines / len(source.paths):.0f}"),
        *(
            (f"longest module {place}", f"{longest[place - 1][1]} {longest[place - 1][0].partition('.')[2]}")
            for place in (1, 2, 3)
        ),
        ("functions", str(len(source.functions))),
        ("functions mentioned once", str(len(source.used_once))),
        ("docstrings", str(len(source.docstrings))),
        (f"docstrings that open with {'/'.join(RIDDLES)}", str(riddles)),
    ]


def table(heads: Sequence[str], columns: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Write one line for each figure, with one column for each checkout."""
    lines = [("", *heads), *((row[0][0], *(value for _, value in row)) for row in zip(*columns, strict=True))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def details(source: Source) -> Iterator[str]:
    """Yield the levels with their names, and the members of each circle."""
    by_level: dict[int, list[str]] = {}
    for name, level in sorted(levels(source.folders).items()):
        by_level.setdefault(level, []).append(name)
    for level in sorted(by_level, reverse=True):
        yield f"level {level:2}: {' '.join(by_level[level])}"
    for circle in (*circles(source.folders), *circles(source.imports)):
        yield f"circle: {' '.join(circle)}"


def show(docstrings: Iterable[Docstring]) -> None:
    for docstring in docstrings:
        print(f"{docstring.place}\n{docstring.text}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "checkouts", nargs="*", type=Path, metavar="PATH", help="roots of checkouts (default: this one)"
    )
    parser.add_argument("--package", default="agentscope", help="the folder that is measured (default: %(default)s)")
    parser.add_argument("--docstrings", type=int, metavar="N", help="print N docstrings drawn at random instead")
    parser.add_argument("--seed", type=int, default=None, help="the seed of that draw")
    parser.add_argument("--riddles", action="store_true", help="print the docstrings that open with a riddle instead")
    asked = parser.parse_args(arguments)
    sources = [Source(path.resolve(), asked.package) for path in asked.checkouts or [ROOT]]
    if asked.docstrings is not None:
        every = sources[-1].docstrings
        show(random.Random(asked.seed).sample(every, min(asked.docstrings, len(every))))
    elif asked.riddles:
        show(docstring for docstring in sources[-1].docstrings if docstring.is_riddle)
    else:
        heads = [str(path) for path in asked.checkouts] or [ROOT.name]
        print(table(heads, [rows(source) for source in sources]))
        for head, source in zip(heads, sources, strict=True):
            print(f"\n{head}")
            print("\n".join(details(source)))


if __name__ == "__main__":
    main()
