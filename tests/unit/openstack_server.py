"""The parts of Nova's and Neutron's APIs that draining a host uses, as one HTTP server with its data in memory."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class FakeOpenStack:
    """Data, a log of requests that change something, and how servers behave when they are told to move.

    A migration takes ``steps`` looks at the server. ``fails`` are servers whose live migration comes to nothing.
    """

    def __init__(self):
        self.services, self.servers, self.migrations = [], {}, []
        self.agents, self.bound, self.names = {}, {}, {}
        self.log, self.versions = [], set()
        self.steps, self.fails, self.target = 2, {}, "cmp2"
        self.slow, self.unnoted = 0, 0
        self.standby, self.late = "standby", False
        self.dead, self.deaf = False, False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *args):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.versions.add(self.headers.get("OpenStack-API-Version"))
                parts = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                status, result = fake.handle(self.command, parts.path, query, json.loads(body or b"null"))
                content = b"" if result is None else json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    # --- what there is ---

    def add_service(self, host, status="enabled", state="up"):
        self.services.append(
            {"id": f"svc-{host}", "binary": "nova-compute", "host": host, "status": status, "state": state}
        )

    def add_server(self, name, host, status="ACTIVE"):
        self.servers[name] = {
            "id": name,
            "name": name,
            "status": status,
            "OS-EXT-SRV-ATTR:host": host,
            "OS-EXT-STS:task_state": None,
            "_left": 0,
        }

    def add_agent(self, kind, host, alive=True, up=True, mode=None):
        name = f"{kind.split()[0].lower()}-{host}"
        self.agents[name] = {
            "id": name, "agent_type": kind, "host": host, "alive": alive, "admin_state_up": up,
            "configurations": {"agent_mode": mode} if mode else {},
        }  # fmt: skip
        self.bound[name] = []
        return name

    def bind(self, thing, *agents, **fields):
        self.names[thing] = {"id": thing, "name": thing, **fields}
        for agent in agents:
            self.bound[agent].append(thing)

    # --- what is asked ---

    def handle(self, method, path, query, body):
        if method != "GET":
            self.log.append(f"{method} {path} {json.dumps(body) if body is not None else ''}".strip())
        handler = self.network if path.startswith("/v2.0/") else self.compute
        return handler(method, path, query, body)

    def compute(self, method, path, query, body):
        if path == "/os-services":
            return 200, {"services": self.services}
        if path.startswith("/os-services/"):
            service = next((s for s in self.services if s["id"] == path.split("/")[2]), None)
            if service is None:
                return 404, {"itemNotFound": {"message": "no such service"}}
            if method == "DELETE":
                self.services.remove(service)
                return 204, None
            if not self.deaf:
                service.update(body)
            return (504, None) if self.dead else (200, {"service": service})
        if path == "/servers/detail":
            found = [self.look(s) for s in list(self.servers.values()) if s["OS-EXT-SRV-ATTR:host"] == query["host"]]
            return 200, {"servers": [s for s in found if s["OS-EXT-SRV-ATTR:host"] == query["host"]]}
        if path == "/os-migrations":
            wanted = ("source_compute", "status")
            return 200, {"migrations": [m for m in self.migrations if all(m[k] == query.get(k, m[k]) for k in wanted)]}
        name, rest = re.fullmatch(r"/servers/([^/]+)(.*)", path).groups()
        if name not in self.servers:
            return 404, {"itemNotFound": {"message": "no such server"}}
        server = self.servers[name]
        if rest == "":
            return 200, {"server": self.look(server)}
        if rest == "/migrations":
            return 200, {"migrations": [{"memory_total_bytes": 200, "memory_processed_bytes": 50}]}
        if rest == "/os-instance-actions":
            return 200, {"instanceActions": [{"request_id": "req-1"}]}
        if rest.startswith("/os-instance-actions/"):
            return 200, {"instanceAction": {"message": "Error", "events": [{"details": self.fails[name]}]}}
        return self.act(server, *next(iter(body.items())))

    def act(self, server, action, options):
        if action == "confirmResize":
            if "_confirming" in server:
                return 400, {"badRequest": {"message": "Instance has not been resized."}}
            server["_confirming"] = self.steps
            return 204, None
        task = {"os-migrateLive": "migrating", "migrate": "resize_prep", "evacuate": "rebuilding"}[action]
        if action == "os-migrateLive" and server["status"] not in ("ACTIVE", "PAUSED"):
            return 409, {"conflictingRequest": {"message": f"Cannot live-migrate while it is {server['status']}"}}
        server.update({"OS-EXT-STS:task_state": task, "_left": self.steps, "_action": action})
        self.migrations.append(
            {
                "source_compute": server["OS-EXT-SRV-ATTR:host"],
                "instance_uuid": server["id"],
                "status": "running",
                "migration_type": action,
                "created_at": f"{len(self.migrations):04}",
            }  # fmt: skip
        )
        return 202, None

    def look(self, server):
        # It is confirmed after a while, without any task that is told of.
        if "_confirming" in server:
            server["_confirming"] -= 1
            if server["_confirming"] <= 0:
                server.update(status=server.pop("_before"))
                del server["_confirming"]
        if server["OS-EXT-STS:task_state"]:
            server["_left"] -= 1
            if server["_left"] <= 0 and not self.slow:
                self.end(server)
        elif server.get("_unnoted"):
            server["_unnoted"] -= 1
            if not server["_unnoted"]:
                self.arrive(server)
        return {key: value for key, value in server.items() if not key.startswith("_")}

    def end(self, server):
        server["OS-EXT-STS:task_state"] = None
        if server["name"] in self.fails:
            self.note(server, "error")
            return
        # Without a task any more, while its new host is written down last.
        server["_unnoted"] = self.unnoted
        if not self.unnoted:
            self.arrive(server)

    def note(self, server, status):
        for migration in self.migrations:
            if (migration["instance_uuid"], migration["status"]) == (server["id"], "running"):
                migration["status"] = status

    def arrive(self, server):
        self.note(server, "done")
        server["OS-EXT-SRV-ATTR:host"] = self.target
        if server["_action"] == "migrate":
            server.update(_before=server["status"], status="VERIFY_RESIZE")

    def network(self, method, path, query, body):
        words = path.split("/")[2:]
        if words == ["agents"]:
            return 200, {"agents": list(self.agents.values())}
        if words == ["ports"]:
            name = query["network_id"]
            served = self.names[name].get("dhcp", True) and not self.late
            hosts = [self.agents[a]["host"] for a, things in self.bound.items() if name in things]
            hosts = hosts if served else hosts[:1] if self.late else []
            return 200, {"ports": [{"status": "ACTIVE", "binding:host_id": host} for host in hosts]}
        if words[0] in ("networks", "routers"):
            found = [dict(self.agents[a]) for a, things in self.bound.items() if words[1] in things]
            for place, agent in enumerate(found):
                agent["ha_state"] = "active" if place == 0 else self.standby
            return 200, {"agents": found}
        agent = words[1]
        if agent not in self.agents:
            return 404, {"NeutronError": {"message": "no such agent"}}
        if len(words) == 2:
            if method == "DELETE":
                del self.agents[agent]
                return 204, None
            self.agents[agent].update(body["agent"])
            return 200, {"agent": self.agents[agent]}
        if method == "GET":
            kind = "networks" if words[2] == "dhcp-networks" else "routers"
            return 200, {kind: [self.names[thing] for thing in self.bound[agent]]}
        if method == "DELETE":
            if words[3] not in self.bound[agent]:
                return 409, {"NeutronError": {"message": "not hosted by it"}}
            self.bound[agent].remove(words[3])
            return 204, None
        thing = next(iter(body.values()))
        if thing in self.bound[agent]:
            return 409, {"NeutronError": {"message": "hosted by it already"}}
        self.bound[agent].append(thing)
        return 201, {}
