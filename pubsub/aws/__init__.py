"""AWS: the rooms that the AWS IoT provider and the local AWS IoT endpoint are built of.

For clients:

    settings               Amplify's configuration files -> one flat dict      (settings_js: JavaScript's objects)
    cognito                credentials of a Cognito identity pool              (cognito_api: requests; http: one POST)
    custom_auth            what a custom authorizer is told, and how it is read
    learnt_clock, errors   the right time from a 403's date; what a refusal means
    limits                 the limits of AWS IoT, by name; the endpoint keeps them too

For the local endpoint:

    endpoint               the embedded broker behind AWS IoT's rules          (endpoint_hooks: the decisions)
    gate                   which upgrade is let in by its signature, and AWS's 403 for the others
    identities             who there is, and which policies are asked          (identities_file: TOML and JSON)
    policy                 what a connection may do, by its policies           (policy_document, policy_conditions,
                           policy_variables, policy_match, policy_explain: the parts, from the outside in)
    presence               lifecycle messages
    cognito_local          a stand-in of Cognito, and cognito_local_server, which serves it
    keyring                the keys that stand-ins have given out, for whoever verifies signatures

Each is imported by its own name, so that a program which only signs in does not load servers.  Of this project they
import the public names of `sigv4` and `mqttws` alone; only `endpoint` and `endpoint_hooks` know the broker.
"""
