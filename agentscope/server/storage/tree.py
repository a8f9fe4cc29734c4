"""The tree of the steps of a run, of the parents that they name. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agentscope.protocols.ids import span_id_of


def resolved(roots: Collection[str | None], parents: Mapping[str, str | None]) -> dict[str, str | None]:
    """Replace parents that another sender named by their span ids with the ids of steps.

    `roots` are the span ids of the run itself.
    """
    strange = {parent for parent in parents.values() if parent is not None and parent not in parents}
    if not strange:
        return dict(parents)
    by_span: dict[str, str | None] = {span_id_of(step_id): step_id for step_id in parents}
    by_span.update((root, None) for root in roots if root is not None)
    return {
        step_id: by_span.get(parent, parent) if parent in strange and parent is not None else parent
        for step_id, parent in parents.items()
    }


def attach(parents: Mapping[str, str | None]) -> dict[str, str | None]:
    """Make the parents a tree: an unknown parent, and one that leads back to its own step, becomes None."""
    attached = {step: parent if parent in parents else None for step, parent in parents.items()}
    settled: set[str] = set()
    for step in parents:
        path: dict[str, None] = {}
        here: str | None = step
        while here is not None and here not in settled and here not in path:
            path[here] = None
            here = attached[here]
        if here is not None and here in path:
            attached[here] = None
        settled.update(path)
    return attached


def depth_first(parents: dict[str, str | None]) -> dict[str, int]:
    """Return the depth of each step of a tree, each after its parent and with its descendants following."""
    children: dict[str | None, list[str]] = {}
    for step in reversed(parents):
        children.setdefault(parents[step], []).append(step)
    # A stack, not recursion: a chain of many thousand steps is a legal tree.
    stack = [(0, step) for step in children.get(None, ())]
    depths: dict[str, int] = {}
    while stack:
        depth, step = stack.pop()
        depths[step] = depth
        stack += ((depth + 1, child) for child in children.get(step, ()))
    return depths
