"""A cloud of one to N nodes on one Linux machine, for trying kolla-salt and for testing it.

The library functions are in :mod:`kolla_salt.sandbox.cloud`; `docs/guides/sandbox.md` describes what they build.
"""
