"""The command ``kolla-salt``."""
