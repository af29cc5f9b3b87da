"""From a program to a plan: head, spine, segments, and the coverage report."""
