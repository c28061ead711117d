"""Keep accounts, policies and feature flags of the message broker as declared."""

from __future__ import annotations

from typing import Any

from kolla_salt.converge import converge

__virtualname__ = "kolla_rabbitmq"

#: Seconds to wait for a broker that was just started.
TIMEOUT = 120


def __virtual__() -> str:
    return __virtualname__


def user_present(
    name: str,
    password_secret: str,
    tags: list[str] | None = None,
    permissions: dict[str, dict[str, str]] | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Ensure that an account exists with its password, tags and permissions.

    :param name: the account
    :param password_secret: name of its password in the site's passwords
    :param tags: ``administrator``, ``monitoring``, ``management``; default: none
    :param permissions: virtual host -> ``configure``, ``write``, ``read``; default: all in ``/``
    :param timeout: seconds to wait for RabbitMQ; a prediction does not wait
    """
    arguments = (name, password_secret, tags, permissions, 0 if __opts__["test"] else timeout)
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_rabbitmq.user_diff"](*arguments),
        apply=lambda: __salt__["kolla_rabbitmq.set_user"](*arguments) and None,
    )


def vhost_present(name: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Ensure that a virtual host exists.

    :param name: the virtual host
    :param timeout: seconds to wait for RabbitMQ; a prediction does not wait
    """
    wait = 0 if __opts__["test"] else timeout
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_rabbitmq.vhost_diff"](name, wait),
        apply=lambda: __salt__["kolla_rabbitmq.create_vhost"](name, wait),
    )


def policy_present(
    name: str,
    pattern: str,
    definition: dict[str, Any],
    apply_to: str = "queues",
    priority: int = 0,
    vhost: str = "/",
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Ensure that a policy is as declared.

    :param name: the policy
    :param pattern: regular expression of the names it is for
    :param definition: what it sets
    :param apply_to: ``queues``, ``streams``, ``exchanges``, ``all``, ...
    :param priority: of several policies the highest holds
    :param vhost: virtual host
    :param timeout: seconds to wait for RabbitMQ; a prediction does not wait
    """
    arguments = (name, pattern, definition, apply_to, priority, vhost, 0 if __opts__["test"] else timeout)
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_rabbitmq.policy_diff"](*arguments),
        apply=lambda: __salt__["kolla_rabbitmq.set_policy"](*arguments),
    )


def flags_enabled(name: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Ensure that all stable feature flags are enabled, as the next release needs it.

    :param name: the state's ID
    :param timeout: seconds to wait for RabbitMQ; a prediction does not wait
    """
    wait = 0 if __opts__["test"] else timeout
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_rabbitmq.flags_diff"](wait),
        apply=lambda: __salt__["kolla_rabbitmq.enable_flags"](wait) and None,
    )


def copies_present(name: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Ensure that queues and streams that have too few members get one on this host.

    :param name: the state's ID
    :param timeout: seconds to wait for RabbitMQ, and for the queues; a prediction does not wait
    """
    wait = 0 if __opts__["test"] else timeout
    return converge(
        name,
        __opts__["test"],
        diff=lambda: __salt__["kolla_rabbitmq.copies_diff"](wait),
        apply=lambda: f"{len(__salt__['kolla_rabbitmq.grow'](wait))} queues got a member here",
    )
