"""How many connections a pool is to have, and which filters go where when that changes. No input or output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pubsub.pool.part import Part
from pubsub.pool.places import Place, Places

__all__ = ["Connections", "Sizes", "excess", "least", "split"]

#: "auto"; or how many in all; or how many publish and how many receive.
Connections = Literal["auto"] | int | tuple[int, int]

#: The share of a rate at which a connection counts as full.
FULL = 0.8
#: Seconds of calm after which a pool that sizes itself lets go of a connection.
CALM = 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many connections publish, and how many receive; `shared`: one does both."""

    publishing: int
    receiving: int
    shared: bool = False


def split(connections: Connections) -> Sizes:
    """Return how many connections publish and receive in the beginning.

    Raises:
        TypeError, ValueError: This is not a number of connections.
    """
    if connections == "auto":
        return Sizes(1, 1)
    if isinstance(connections, tuple) and len(connections) == 2 and all(type(each) is int for each in connections):
        sizes = Sizes(*connections)
    elif type(connections) is int:
        half = connections // 2
        sizes = Sizes(1, 1, shared=True) if connections == 1 else Sizes(half, connections - half)
    else:
        raise TypeError(
            f"connections is {connections!r}; expected 'auto', a number, or a pair of numbers: (publishing, receiving)"
        )
    if sizes.publishing < 1 or sizes.receiving < 1:
        raise ValueError(f"connections is {connections!r}; at least one must publish and one receive")
    return sizes


def least(parts: Sequence[Part], places: Places[Part], most: int | None, topic_filter: str) -> Part | None:
    """Choose the part for a new Topic Filter: one that has an overlapping one, else the one with the fewest.

    Args:
        parts: That may receive.
        places: What they have.
        most: Filters of one part; None: any number.
        topic_filter: The new one.

    Returns:
        None if all are full.
    """
    free = [part for part in parts if most is None or places.count(part) < most]
    if not free:
        return None
    beside = {place.part for place in places.overlapping(topic_filter)}
    return min(free, key=lambda part: (not part.is_trusted, part not in beside, places.count(part), part.index))


def excess(source: Part, places: Places[Part], share: int, is_free: Callable[[Place[Part]], bool]) -> list[Place[Part]]:
    """Choose what a part gives away so that it keeps its share: the youngest first, and none that overlaps another."""
    on = [place for place in places.on(source) if is_free(place)]
    given: list[Place[Part]] = []
    for place in reversed(on):
        if places.count(source) - len(given) <= share:
            break
        if not any(other.part is source for other in places.overlapping(place.topic_filter)):
            given.append(place)
    return given
