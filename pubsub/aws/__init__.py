"""AWS: Cognito's credentials, Amplify's configuration, AWS IoT's policies, local stand-ins of services."""
