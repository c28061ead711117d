"""The part of Keystone's API that registration uses, as a small HTTP server with its data in memory."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COLLECTIONS = ("users", "projects", "domains", "roles", "services", "endpoints", "regions")


class FakeKeystone:
    """Data, a log of requests, and switches for what can go wrong."""

    def __init__(self):
        self.data = {name: {} for name in COLLECTIONS}
        self.grants = set()  # (user, "project"|"domain", scope, role)
        self.requests = []
        self.refuse_with = None  # (method, path prefix, status, body)
        self.busy = 0  # that many answers are 503
        self.lock = threading.Lock()
        self.data["domains"]["default"] = {"id": "default", "name": "Default", "enabled": True}
        admin = self.add("users", name="admin", domain_id="default", password="adm1n-pw", enabled=True)
        project = self.add("projects", name="admin", domain_id="default", enabled=True)
        role = self.add("roles", name="admin", domain_id=None)
        self.grants.add((admin["id"], "project", project["id"], role["id"]))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One segment per answer: in two, the second waits for the client's delayed acknowledgement.
            wbufsize = -1

            def log_message(self, *args):
                pass

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                with fake.lock:
                    status, result, headers = fake.handle(self.command, self.path, body, self.headers)
                content = b"" if result is None else json.dumps(result).encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, collection, **fields):
        item = {"id": uuid.uuid4().hex, **fields}
        self.data[collection][item["id"]] = item
        return item

    def named(self, collection, name):
        return [item for item in self.data[collection].values() if item.get("name") == name]

    def writes(self):
        return [line for line in self.requests if not line.startswith(("GET", "POST /v3/auth"))]

    def handle(self, method, url, body, headers):
        parts = urlsplit(url)
        path = parts.path
        self.requests.append(f"{method} {url}")
        if self.busy:
            self.busy -= 1
            return 503, {"html": "No server is available to handle this request."}, {}
        if self.refuse_with and method == self.refuse_with[0] and path.startswith(self.refuse_with[1]):
            return self.refuse_with[2], self.refuse_with[3], {}
        if path == "/v3/auth/tokens":
            return self.token(body["auth"])
        if headers.get("X-Auth-Token") != "admin-token":
            return 401, {"error": {"message": "The request you have made requires authentication."}}, {}
        names = path.removeprefix("/v3/").split("/")
        if names[0] == "role_assignments":
            return 200, {"role_assignments": self.assignments(parse_qs(parts.query))}, {}
        if len(names) == 6 and method == "PUT":
            self.grants.add((names[3], names[0][:-1], names[1], names[5]))
            return 204, None, {}
        return self.collection(method, names, {k: v[0] for k, v in parse_qs(parts.query).items()}, body)

    def token(self, auth):
        wanted = auth["identity"]["password"]["user"]
        for user in self.data["users"].values():
            same = wanted.get("id") == user["id"] or (
                wanted.get("name") == user["name"] and wanted["domain"]["id"] == user["domain_id"]
            )
            if same and user["password"] == wanted["password"] and user["enabled"]:
                token = {
                    "token": {"user": {"id": user["id"]}, "expires_at": "2099-01-01T00:00:00.000000Z", "methods": []}
                }
                return 201, token, {"X-Subject-Token": f"{user['name']}-token"}
        return 401, {"error": {"message": "The request you have made requires authentication.", "code": 401}}, {}

    def assignments(self, query):
        kind = "project" if "scope.project.id" in query else "domain"
        scope = query[f"scope.{kind}.id"][0]
        found = []
        for user_id, grant_kind, grant_scope, role_id in sorted(self.grants):
            if (grant_kind, grant_scope) == (kind, scope):
                user, role = self.data["users"][user_id], self.data["roles"][role_id]
                found.append(
                    {
                        "user": {"id": user_id, "name": user["name"], "domain": {"id": user["domain_id"]}},
                        "role": {"id": role_id, "name": role["name"]},
                        "scope": {kind: {"id": scope}},
                    }
                )
        return found

    def collection(self, method, names, query, body):
        name = names[0]
        items, single = self.data[name], name[:-1]
        if len(names) == 1 and method == "GET":
            found = [item for item in items.values() if all(item.get(key) == value for key, value in query.items())]
            return 200, {name: [self.public(item) for item in found]}, {}
        if len(names) == 1 and method == "POST":
            fields = body[single]
            same = [i for i in items.values() if "name" in i and i["name"] == fields.get("name")
                    and i.get("domain_id") == fields.get("domain_id")]  # fmt: skip
            if same and name != "services":
                return 409, {"error": {"message": f"Conflict occurred attempting to store {single}.", "code": 409}}, {}
            if name == "endpoints" and fields["region_id"] not in self.data["regions"]:
                return 400, {"error": {"message": f"Could not find region {fields['region_id']}", "code": 400}}, {}
            return 201, {single: self.public(self.add(name, **fields))}, {}
        if names[1] not in items:
            return 404, {"error": {"message": f"Could not find {single}: {names[1]}.", "code": 404}}, {}
        if method == "PATCH":
            items[names[1]].update(body[single])
            return 200, {single: self.public(items[names[1]])}, {}
        if method == "DELETE":
            del items[names[1]]
            return 204, None, {}
        return 200, {single: self.public(items[names[1]])}, {}

    @staticmethod
    def public(item):
        return {key: value for key, value in item.items() if key != "password"}
