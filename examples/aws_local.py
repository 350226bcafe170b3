"""From an identity pool to a message, offline: with a local Cognito service and a local AWS IoT endpoint.

Run it: python examples/aws_local.py
"""

from __future__ import annotations

import queue

from pubsub import AWSIoTProvider, Message, PubSub
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import Identities

REGION = "eu-west-1"
POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
ARN = f"arn:aws:iot:{REGION}:123456789012"

identities = Identities(REGION)
identities.add_policy(
    "guests",
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
            {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}:topic/chat/*"},
            {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}:topicfilter/chat/*"},
        ],
    },
)
identities.add_pool(POOL, guests=["guests"])

received: queue.Queue[Message] = queue.Queue()
with LocalIoTEndpoint(identities, explain=True) as iot:
    credentials = CognitoIdentity(POOL, endpoint=iot.cognito_endpoint)
    with PubSub(AWSIoTProvider(REGION, iot.url, credentials)) as ps:
        ps.subscribe("chat/+", qos=1).subscribe(next=received.put).ready(timeout=5)
        ps.publish("chat/hello", {"msg": "Hello from a guest"}, qos=1)
        message = received.get(timeout=5)
        print(message.topic, message.value)
