"""The `naflow` command."""
