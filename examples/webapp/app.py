"""A web application with one PubSub: it receives readings over MQTT and serves them over HTTP.

    pip install 'mqttws-pubsub' fastapi uvicorn
    BROKER=ws://127.0.0.1:8083/mqtt uvicorn app:app

The connection is opened when the application starts. When the application ends, queued messages are sent and the
connection is closed. Without a broker the application starts nevertheless, and connects when there is one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from pubsub import Message, MqttOverWSProvider
from pubsub.aio import PubSub


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect before the first request, and disconnect after the last."""
    provider = MqttOverWSProvider(
        aws_pubsub_endpoint=os.environ.get("BROKER", "ws://127.0.0.1:8083/mqtt"), retry_first=True
    )
    app.state.latest = {}
    app.state.arrived = asyncio.Condition()

    async def keep(message: Message) -> None:
        async with app.state.arrived:
            app.state.latest[message.topic] = message.value
            app.state.arrived.notify_all()

    async with PubSub(provider) as ps:
        app.state.ps = ps
        ps.subscribe("readings/#", qos=1).subscribe(next=keep)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readings")
async def readings(request: Request) -> dict[str, Any]:
    """Return the latest reading of each topic."""
    latest: dict[str, Any] = request.app.state.latest
    return latest


@app.post("/commands/{device}")
async def command(device: str, request: Request) -> dict[str, str]:
    """Send a command to a device, and answer when the broker has acknowledged it."""
    if not device.isalnum():
        raise HTTPException(422, "the name of a device must contain only letters and digits")
    await request.app.state.ps.publish(f"commands/{device}", await request.json(), qos=1)
    return {"sent": device}


@app.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Return the state of the connection, for a load balancer."""
    return {"broker": str(request.app.state.ps.connection_state)}
