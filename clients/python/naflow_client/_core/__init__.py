"""What sync and async clients share: messages in and out, and no I/O."""
