"""Local stand-ins for AWS IoT's message broker and Amazon Cognito, for development and tests. Not for production.

    endpoint           LocalIoTEndpoint: the embedded broker with AWS IoT's rules     (endpoint_hooks: the decisions)
    signature_check    the check of an upgrade request's signature, and AWS's 403
    identities         users, pools, things, certificates, and their policies         (identities_file: TOML and JSON)
    policy             the permissions of a connection                                (policy_document,
                       policy_conditions, policy_variables, policy_match, policy_explain: its parts)
    authorizers        custom authorizers: a Python function instead of an AWS Lambda function
    presence           lifecycle messages, `$aws/events/presence/...`
    cognito            Amazon Cognito's identity pools                                (cognito_server: over HTTP)
    keyring            the keys that Cognito has issued, for the check of signatures

These modules import the public names of `sigv4` and `mqttws`, and from `pubsub.aws` only what client and server share:
`limits` and `custom_auth`. Only `endpoint` and `endpoint_hooks` depend on the broker.
"""
