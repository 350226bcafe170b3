"""The number of connections of a pool, and the choice of the parts for Topic Filters when it changes. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pubsub.pool.part import Part
    from pubsub.pool.places import Place, Places

__all__ = ["Connections", "Sizes", "excess", "least", "split"]

#: "auto"; or the number of connections; or a pair: how many publish, and how many receive.
Connections = Literal["auto"] | int | tuple[int, int]

#: The share of a rate at which a connection counts as full.
FULL = 0.8
#: Seconds with a low load after which a pool with "auto" closes a connection.
CALM = 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of connections that publish and that receive; `shared`: one connection does both."""

    publishing: int
    receiving: int
    shared: bool = False


def split(connections: Connections) -> Sizes:
    """Return the initial numbers of connections that publish and that receive.

    Raises:
        TypeError, ValueError: The argument is not a valid number of connections.
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
        parts: The parts that receive.
        places: The Topic Filters that they have.
        most: The maximum number of Topic Filters of a part; None: any number.
        topic_filter: The new Topic Filter.

    Returns:
        The part; None if all are full.
    """
    free = [part for part in parts if most is None or places.count(part) < most]
    if not free:
        return None
    beside = {place.part for place in places.overlapping(topic_filter)}
    return min(free, key=lambda part: (not part.is_trusted, part not in beside, places.count(part), part.index))


def excess(source: Part, places: Places[Part], share: int, is_free: Callable[[Place[Part]], bool]) -> list[Place[Part]]:
    """Choose the filters that a part gives away to keep only its share: the newest, except those that overlap others.

    Args:
        source: The part.
        places: The Topic Filters of all parts.
        share: The number of Topic Filters that it keeps.
        is_free: Returns whether a Topic Filter can be moved now.
    """
    on = [place for place in places.on(source) if is_free(place)]
    given: list[Place[Part]] = []
    for place in reversed(on):
        if places.count(source) - len(given) <= share:
            break
        if not any(other.part is source for other in places.overlapping(place.topic_filter)):
            given.append(place)
    return given
