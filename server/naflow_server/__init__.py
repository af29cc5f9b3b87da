"""The gRPC explanation server."""
