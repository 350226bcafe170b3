"""What stands in for AWS: the local AWS IoT endpoint and the local Cognito. See `pubsub.aws` for the list."""
