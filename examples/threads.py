"""Publish and subscribe with callbacks, as in Amplify, and by iterating.

Usage: python examples/threads.py [URL]; without a URL it uses the embedded broker.
"""

from __future__ import annotations

import sys
import threading

import mqttws
from pubsub import Message, MqttOverWSProvider, PubSub


def main(url: str) -> None:
    """Publish questions and answers, and read a retained message."""
    with PubSub(MqttOverWSProvider(url)) as ps:
        answered = threading.Event()

        def on_question(message: Message) -> None:
            # A callback may call all methods, including those that wait.
            ps.publish("demo/answer", {"sum": sum(message.value)}, qos=1)

        def on_answer(message: Message) -> None:
            print(f"answer: {message.value}")
            answered.set()

        ps.connection_state_changes.subscribe(lambda change: print(f"connection: {change.state}"))
        questions = ps.subscribe("demo/question", qos=1).subscribe(on_question, error=print)
        answers = ps.subscribe("demo/answer", qos=1).subscribe(on_answer, error=print, close=lambda: print("done"))
        questions.ready()
        answers.ready()
        ps.publish("demo/question", [1, 2, 3], qos=1)
        answered.wait(10)
        answers.unsubscribe()

        ps.publish("demo/config", {"unit": "°C"}, retain=True, qos=1)
        for message in ps.subscribe("demo/config", timeout=5):
            print(f"{'retained' if message.retain else 'live'}: {message.value}")
            break


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with mqttws.broker.Broker() as broker:
            main(broker.url)
