"""What a run of the simulator depends on: a seed, and what happens from outside and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

#: Seconds of the world's time in which the schedule's actions happen.
SPAN = 12.0
#: Who can fail.
PROCESSES = ("publisher", "broker", "subscriber")


@dataclass(frozen=True)
class Action:
    """What happens from outside.

    Attributes:
        at: seconds.
        verb: "publish", "cut", "freeze" or "kill".
        subject: for "publish" the number of the message, else the process, or the client whose line it is.
        qos: of the message.
        safe: whether the publisher makes the message safe at once, and counts it as accepted from then on.
    """

    at: float
    verb: str
    subject: int | str
    qos: int = 0
    safe: bool = False


@dataclass(frozen=True)
class Schedule:
    """All that a run depends on.

    Attributes:
        seed: decides what the actions leave open.
        actions: sorted by time.
        window: how many messages may be in flight.
        websocket: whether the lines are WebSockets.
    """

    seed: int
    actions: tuple[Action, ...]
    window: int
    websocket: bool = False

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Make the schedule of a seed: 3 to 8 messages, 1 to 5 faults."""
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
            # Most faults strike when something is under way.
            at = random.choice(times) + random.random() * 0.3 if random.random() < 0.8 else random.random() * SPAN
            actions.append(Action(at, verb, subject))
        actions.sort(key=lambda action: action.at)
        return cls(seed, tuple(actions), random.choice((1, 2, 10)), random.random() < 0.1)
