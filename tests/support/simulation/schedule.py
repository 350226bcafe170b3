"""The input of a simulation: a seed, and the external actions with their times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

#: Seconds of simulated time within which the actions of a schedule happen.
SPAN = 12.0
#: The processes that can fail.
PROCESSES = ("publisher", "broker", "subscriber")


@dataclass(frozen=True)
class Action:
    """An external action.

    Attributes:
        at: seconds.
        verb: "publish", "cut", "freeze" or "kill".
        subject: for "publish" the number of the message, else the process, or the client of the line.
        qos: the QoS of the message.
        safe: whether the publisher stores the message immediately, and counts it as accepted from then on.
    """

    at: float
    verb: str
    subject: int | str
    qos: int = 0
    safe: bool = False


@dataclass(frozen=True)
class Schedule:
    """The complete input of a run.

    Attributes:
        seed: seed of all random choices.
        actions: sorted by time.
        window: the maximum number of messages in flight.
        websocket: whether the lines are WebSockets.
    """

    seed: int
    actions: tuple[Action, ...]
    window: int
    websocket: bool = False

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Return the schedule of a seed, with 3 to 8 messages and 1 to 5 faults."""
        random = Random(seed)
        actions = [
            Action(random.random() * SPAN, "publish", number, random.choice((0, 1, 1, 2, 2, 2)), random.random() < 0.5)
            for number in range(random.randint(3, 8))
        ]
        times = sorted(action.at for action in actions)
        actions = [replace(action, at=at) for action, at in zip(actions, times, strict=True)]
        for _ in range(random.randint(1, 5)):
            verb = random.choice(("cut", "cut", "freeze", "kill", "kill"))
            subject = random.choice(PROCESSES if verb == "kill" else ("publisher", "subscriber"))
            # Most faults occur while something is in transit.
            at = random.choice(times) + random.random() * 0.3 if random.random() < 0.8 else random.random() * SPAN
            actions.append(Action(at, verb, subject))
        actions.sort(key=lambda action: action.at)
        return cls(seed, tuple(actions), random.choice((1, 2, 10)), random.random() < 0.1)
