"""AWS for applications: settings, credentials, limits and errors. For development without AWS see `pubsub.aws.local`.

    settings           Amplify's configuration files -> one flat dict      (settings_js: JavaScript objects)
    cognito            credentials of a Cognito identity pool              (cognito_api: requests; http: one POST)
    custom_auth        the parameters for a custom authorizer, and their encoding
    endpoint_url       the URL to connect to with a certificate or a custom authorizer
    reserved_topics    the topics that begin with `$`, and what a client may do with each
    errors             the cause of a refusal: clock, token, signature, policy or limit
    corrected_clock    the correct time, from the `Date` of a 403
    limits             the limits of AWS IoT, by name; the local endpoint enforces the same ones

Import each module separately, so that a program which only gets credentials loads no server. None of them imports
`pubsub.aws.local`, except three that only provide the import paths of version 0.1: `endpoint`, `identities` and
`policy`.
"""
