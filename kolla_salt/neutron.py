"""How networks and routers leave a host and come back: who serves what, and what has to be asked of Neutron's API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kolla_salt.cloud_api import CloudError, same_host

DHCP, L3 = "DHCP agent", "L3 agent"
#: Seconds until another agent has begun to serve what it was given.
TAKEOVER = 90


def moves(
    agent: str, serving: Mapping[str, Sequence[str]], load: Mapping[str, int]
) -> tuple[dict[str, str | None], list[str]]:
    """Return where everything goes that an agent serves.

    A thing keeps as many agents as it has, if there are enough; otherwise those that are left are enough.

    Args:
        agent: that is to serve nothing any more.
        serving: network or router -> all agents that serve it.
        load: agents that may take something -> how much each serves.

    Returns:
        Thing -> agent that takes it in addition, None if the others are enough; and the things nobody else can serve.
    """
    count = dict(load)
    found: dict[str, str | None] = {}
    refused: list[str] = []
    for thing, agents in serving.items():
        free = sorted((name for name in count if name not in agents and name != agent), key=lambda name: count[name])
        if free:
            found[thing] = free[0]
            count[free[0]] += 1
        elif any(name in count for name in agents if name != agent):
            found[thing] = None
        else:
            refused.append(thing)
    return found, refused


def returns(agent: str, serving: Mapping[str, Sequence[str]], wanted: int) -> list[str]:
    """Return what an agent that is back has to serve: everything with fewer than ``wanted`` agents."""
    return [thing for thing, agents in serving.items() if agent not in agents and len(agents) < wanted]


class Network:
    """What draining and removing a host needs of Neutron's API.

    Args:
        api: of the cloud.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def agents(self) -> list[dict[str, Any]]:
        """Return all agents."""
        return self.api.get("network", "/v2.0/agents")["agents"]

    def set_agent(self, agent_id: str, up: bool) -> None:
        """Switch an agent on or off."""
        self.api.request("PUT", "network", f"/v2.0/agents/{agent_id}", {"agent": {"admin_state_up": up}})

    def delete_agent(self, agent_id: str) -> bool:
        """Forget an agent; False if it was gone."""
        return self.api.delete("network", f"/v2.0/agents/{agent_id}")

    def served(self, kind: str, agent_id: str) -> list[dict[str, Any]]:
        """Return the networks (``kind`` DHCP) or routers (L3) of an agent."""
        if kind == DHCP:
            return self.api.get("network", f"/v2.0/agents/{agent_id}/dhcp-networks")["networks"]
        return self.api.get("network", f"/v2.0/agents/{agent_id}/l3-routers")["routers"]

    def serving(self, kind: str, thing: str) -> list[dict[str, Any]]:
        """Return the agents of a network or router; for routers with ``ha_state``."""
        collection = "networks" if kind == DHCP else "routers"
        return self.api.get("network", f"/v2.0/{collection}/{thing}/{_AGENTS[kind]}")["agents"]

    def give(self, kind: str, agent_id: str, thing: str) -> None:
        """Let an agent serve a network or router; nothing happens if it does."""
        body = {"network_id": thing} if kind == DHCP else {"router_id": thing}
        try:
            self.api.request("POST", "network", f"/v2.0/agents/{agent_id}/{_THINGS[kind]}", body)
        except CloudError as error:
            if error.status != 409:
                raise

    def take(self, kind: str, agent_id: str, thing: str) -> None:
        """Let an agent serve a network or router no longer."""
        try:
            self.api.delete("network", f"/v2.0/agents/{agent_id}/{_THINGS[kind]}/{thing}")
        except CloudError as error:
            # It does not serve it any more.
            if error.status != 409:
                raise

    def dhcp_hosts(self, network: str) -> set[str]:
        """Return the hosts on which DHCP of a network works already."""
        ports = self.api.get("network", "/v2.0/ports", network_id=network, device_owner="network:dhcp")["ports"]
        return {port["binding:host_id"] for port in ports if port["status"] == "ACTIVE"}


_AGENTS = {DHCP: "dhcp-agents", L3: "l3-agents"}
_THINGS = {DHCP: "dhcp-networks", L3: "l3-routers"}


def takes(agent: Mapping[str, Any], kind: str) -> bool:
    """Return whether an agent can be given networks or routers: it works, and not for servers of its own alone."""
    mode = (agent.get("configurations") or {}).get("agent_mode", "legacy")
    return (
        agent["agent_type"] == kind
        and bool(agent["alive"])
        and bool(agent["admin_state_up"])
        and (kind == DHCP or mode in ("legacy", "dvr_snat"))
    )


class Handover:
    """Hands the networks or routers of one host's agent to others, and takes them back.

    Args:
        network: Neutron's API.
        host: name in the topology.
        kind: :data:`DHCP` or :data:`L3`.
        say: takes a line when something has happened.
        timeout: seconds until another agent has taken something over.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        network: Network,
        host: str,
        kind: str,
        say: Callable[[str], None] = print,
        timeout: float = TAKEOVER,
        interval: float = 1.0,
    ) -> None:
        self.network, self.host, self.kind = network, host, kind
        self.say, self.timeout, self.interval = say, timeout, interval
        agents = network.agents()
        self.hosts = {agent["id"]: agent["host"] for agent in agents}
        own = [agent for agent in agents if agent["agent_type"] == kind and same_host(agent["host"], host)]
        self.agent: dict[str, Any] | None = own[0] if own else None
        self.takers = [agent["id"] for agent in agents if takes(agent, kind) and agent not in own]
        self.word = "network" if kind == DHCP else "router"
        self._names: dict[str, str] = {}

    def plan(self) -> tuple[dict[str, str | None], list[str]]:
        """Return as :func:`moves` does, with names of refused things in words."""
        if self.agent is None:
            return {}, []
        things = self.network.served(self.kind, self.agent["id"])
        self._names = {thing["id"]: thing.get("name") or thing["id"] for thing in things}
        serving = {t["id"]: [a["id"] for a in self.network.serving(self.kind, t["id"])] for t in things}
        load = {agent: len(self.network.served(self.kind, agent)) for agent in self.takers} if things else {}
        # A router without a standby is with one agent at a time; that of another host could not be added.
        found, refused = moves(self.agent["id"], serving, load)
        self.single = {t["id"] for t in things if self.kind == L3 and not t.get("ha")}
        return found, [self._names[thing] for thing in refused]

    def drain(self) -> dict[str, str]:
        """Hand everything over, then switch the agent off; return name -> host that serves it now.

        Raises:
            CloudError: another agent did not take over in time; what it was given stays with both.
        """
        done: dict[str, str] = {}
        if self.agent is None:
            return done
        for _ in range(2):  # what was given to it meanwhile, too: a new network may come until it is switched off
            found, refused = self.plan()
            if refused:
                raise CloudError(
                    f"moving {', '.join(refused)} away from {self.host}: no other {self.kind} is up to take the "
                    f"{self.word}"
                )
            for thing, taker in found.items():
                self._hand_over(thing, taker)
                name = self._names[thing]
                done[name] = self.hosts[taker] if taker else "the others"
                self.say(f"{self.word} {name}: served by {done[name]}")
            if self.agent["admin_state_up"]:
                self.network.set_agent(self.agent["id"], False)
                self.agent["admin_state_up"] = False
        return done

    def _hand_over(self, thing: str, taker: str | None) -> None:
        own = str(self.agent["id"]) if self.agent else ""
        if thing in self.single:
            self.network.take(self.kind, own, thing)
            if taker:
                self.network.give(self.kind, taker, thing)
            return
        if taker:
            self.network.give(self.kind, taker, thing)
        self._await(thing, lambda: self._serves(thing, taker))
        self.network.take(self.kind, own, thing)
        if self.kind == L3:
            # The standby takes over as soon as it misses the one that went.
            self._await(thing, lambda: any(a.get("ha_state") == "active" for a in self._standbys(thing)))

    def _standbys(self, thing: str) -> list[dict[str, Any]]:
        own = self.agent["id"] if self.agent else None
        return [agent for agent in self.network.serving(self.kind, thing) if agent["id"] != own and agent["alive"]]

    def _serves(self, thing: str, taker: str | None) -> bool:
        """Return whether another agent would go on serving if this one stopped now."""
        if self.kind == DHCP:
            ready = self.network.dhcp_hosts(thing)
            if self.agent and self.agent["host"] not in ready:
                # A network without DHCP, such as an external one, has agents that do nothing for it.
                return True
            return bool(ready & ({self.hosts[taker]} if taker else {self.hosts[a] for a in self.takers}))
        states = {agent["id"]: agent.get("ha_state") for agent in self._standbys(thing)}
        return states.get(taker) in ("active", "standby") if taker else any(states.values())

    def _await(self, thing: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout
        while not done():
            if time.monotonic() > deadline:
                raise CloudError(
                    f"moving {self.word} {self._names.get(thing, thing)} away from {self.host}: no other {self.kind} "
                    f"serves it after {self.timeout:g} s; see /var/log/kolla/neutron on the other network hosts. "
                    "The same command goes on from here"
                )
            time.sleep(self.interval)

    def undrain(self, wanted: int) -> list[str]:
        """Switch the agent on and give it back what has fewer than ``wanted`` agents; return the names."""
        if self.agent is None:
            return []
        if not self.agent["admin_state_up"]:
            self.network.set_agent(self.agent["id"], True)
        things = {t["id"]: t for agent in self.takers for t in self.network.served(self.kind, agent)}
        serving = {key: [a["id"] for a in self.network.serving(self.kind, key)] for key in things}
        back = returns(self.agent["id"], serving, min(wanted, len(self.takers) + 1))
        back = [key for key in back if self.kind == DHCP or things[key].get("ha")]
        for key in back:
            self.network.give(self.kind, self.agent["id"], key)
        return [str(things[key].get("name") or key) for key in back]
