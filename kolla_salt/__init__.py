"""kolla-salt: OpenStack in containers, deployed and operated with Salt."""

__version__ = "0.1.0"
