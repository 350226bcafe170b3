"""AWS, without MQTT: the rooms that an AWS IoT provider and a local AWS IoT endpoint are built of.

    settings               Amplify's configuration files -> one flat dict      (settings_js: JavaScript's objects)
    cognito                credentials of a Cognito identity pool              (cognito_api: requests; http: one POST)
    policy                 what a connection may do, by its policies           (policy_document, policy_conditions,
                           policy_variables, policy_match, policy_explain: the parts, from the outside in)
    cognito_local          a stand-in of Cognito, and cognito_local_server, which serves it
    keyring                the keys that stand-ins have given out, for whoever verifies signatures

Each is imported by its own name, so that a program which only signs in does not load servers.  None knows MQTT, and
of this project they import the public names of `sigv4` alone.
"""
