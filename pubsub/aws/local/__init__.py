"""What stands in for AWS, on this machine: AWS IoT's message broker and Amazon Cognito. Nothing here is for production.

    endpoint           LocalIoTEndpoint: the embedded broker under AWS IoT's rules    (endpoint_hooks: the decisions)
    signature_check    which upgrade request is accepted by its signature, and AWS's 403 for the others
    identities         users, pools, things, certificates, and their policies         (identities_file: TOML and JSON)
    policy             what a connection may do                                       (policy_document,
                       policy_conditions, policy_variables, policy_match, policy_explain: its parts)
    authorizers        custom authorizers: a function in place of AWS Lambda's
    presence           lifecycle messages, `$aws/events/presence/...`
    cognito            Amazon Cognito's identity pools                                (cognito_server: over HTTP)
    keyring            the keys that Cognito has issued, for the check of signatures

Of this project these modules import the public names of `sigv4` and `mqttws`, and of `pubsub.aws` what both sides
share: `limits` and `custom_auth`. Only `endpoint` and `endpoint_hooks` know the broker.
"""
