"""Failures done on purpose to the sandbox's cloud, and what they cost its users.

``python -m benchmarks.chaos`` runs scenarios and writes their table; ``tests/ha`` runs one of each.
"""
