"""AWS: what an application needs of it. What stands in for AWS in development and tests is in `pubsub.aws.local`.

    settings           Amplify's configuration files -> one flat dict      (settings_js: JavaScript's objects)
    cognito            credentials of a Cognito identity pool              (cognito_api: requests; http: one POST)
    custom_auth        what a custom authorizer is given, and how it is written
    endpoint_url       where to connect with a certificate or a custom authorizer
    reserved_topics    the topics that begin with `$`, and what a client may do with each
    errors             what a refusal means: clock, token, signature, policy or limit
    learnt_clock       the right time, from the `Date` of a 403
    limits             the limits of AWS IoT, by name; the local endpoint enforces the same ones

Each is imported by its own name, so that a program which only signs in loads no server. None of them imports
`pubsub.aws.local`; three import paths of 0.1 remain that lead there: `endpoint`, `identities` and `policy`.
"""
