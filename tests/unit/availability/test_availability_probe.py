"""The probe against real servers that die, are slow, reset, refuse."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time

import pytest
from api_server import PASSWORD, Api, Identity

from kolla_salt.availability import Account, Probe, Target

pytestmark = pytest.mark.timeout(60)

RATE = 40.0


def slack(receipt) -> float:
    """How far times may be off: on a busy machine, by what the probe itself had to wait."""
    return 0.25 + 2 * receipt.data["stall"]


@contextlib.contextmanager
def watched(*targets, account=None, timeout=1.0, sparing=0.0):
    probe = Probe(targets, account, timeout=timeout, sparing=sparing).start()
    try:
        yield probe
    finally:
        probe.stop()


@pytest.fixture
def api():
    server = Api()
    yield server
    server.stop()


@pytest.fixture
def identity():
    server = Identity()
    yield server
    server.stop()


def target(server, kind="plain", path="/", rate=RATE, entry="web", **more):
    return Target("web", entry, kind, server.url, path, rate, **more)


def watch(server, seconds, **more):
    with watched(target(server), **more) as probe:
        time.sleep(seconds)
    return probe.stop()


def test_a_healthy_server_is_asked_on_time_and_nothing_fails(api):
    receipt = watch(api, 1.0)
    entry = receipt.entries[0]
    assert entry["there_before"] and entry["failed"] == 0 and entry["outages"] == []
    seconds = receipt.data["seconds"]
    assert 0.5 * RATE * (seconds - slack(receipt)) <= entry["requests"] <= RATE * seconds + 2
    assert entry["longest_gap"] < 1 / RATE + slack(receipt)
    assert 0 < entry["p50"] <= entry["p99"] <= entry["max"] < slack(receipt)


def test_every_request_has_a_connection_of_its_own(api):
    entry = watch(api, 0.5).entries[0]
    assert api.connections == len(api.requests) == entry["requests"]


def test_a_killed_server_is_out_from_then_until_it_answers_again(api):
    with watched(target(api)) as probe:
        time.sleep(0.5)
        api.stop()
        down = time.time()
        time.sleep(0.8)
        api.start()
        up = time.time()
        time.sleep(0.5)
    receipt = probe.stop()
    entry, late = receipt.entries[0], slack(receipt)
    # One that was under way when the server was killed is reset.
    assert "connection refused" in entry["said"] and set(entry["said"]) <= {"connection refused", "connection reset"}
    assert len(entry["outages"]) == 1
    begin, end = entry["outages"][0]
    assert down - 0.02 - late <= begin <= down + 1 / RATE + late
    assert up <= end <= up + 1 / RATE + late
    assert 0.3 * RATE <= entry["failed"] <= 0.8 * RATE + 2
    assert entry["longest_gap"] >= 0.8 and entry["outage"] == pytest.approx(end - begin, abs=0.002)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (503, "HTTP status 503"),
        (500, "HTTP status 500"),
        ("reset", "connection reset"),
        ("deaf", "connection closed without an answer"),
        ("cut", "answer cut short"),
    ],
)
def test_a_failure_is_told_by_its_kind(api, mode, said):
    with watched(target(api)) as probe:
        time.sleep(0.3)
        api.mode = mode
        time.sleep(0.3)
        api.mode = "good"
        time.sleep(0.3)
    entry = probe.stop().entries[0]
    assert set(entry["said"]) == {said} and entry["first_failure"]["said"] == said
    assert 2 <= entry["failed"] <= 0.3 * RATE + 0.1 * RATE
    assert 0.2 < entry["outage"] < 0.3 + slack(probe.stop())


@pytest.mark.parametrize("mode", [204, 300, 404, "chunked", "endless"])
def test_any_whole_answer_that_is_no_server_error_is_good(api, mode):
    api.mode = mode
    entry = watch(api, 0.4).entries[0]
    assert entry["failed"] == 0 and entry["requests"] >= 3


def test_an_unanswered_request_does_not_stop_the_next_ones(api):
    with watched(target(api), timeout=0.8) as probe:
        time.sleep(0.4)
        before = len(api.requests)
        api.mode = "silent"
        time.sleep(0.7)  # less than the timeout: none of them has ended
        meanwhile = len(api.requests) - before
        api.mode = "good"
        time.sleep(0.8)
    entry = probe.stop().entries[0]
    assert meanwhile >= 0.3 * 0.7 * RATE
    assert set(entry["said"]) == {"no answer within 0.8 s"}
    assert entry["failed"] == pytest.approx(meanwhile, abs=3)
    assert len(entry["outages"]) == 1
    assert 0.6 < entry["outage"] < 0.7 + slack(probe.stop())


def test_what_answers_slowly_is_asked_less_often(api):
    """Asking takes no more than a tenth of a worker, but never less than one request a second is sent."""
    with watched(target(api), timeout=1.5, sparing=10) as probe:
        counts = []
        for delay in (0.0, 0.02, 0.5):
            api.delay = delay
            time.sleep(1.5)  # until the median of the last nine has followed
            before = len(api.requests)
            time.sleep(1.5)
            counts.append((len(api.requests) - before) / 1.5)
    assert probe.stop().failed == 0
    fast, slow, slowest = counts
    assert slow <= 5.5 < fast  # every 10 times 0.02 s, or later if it took longer
    assert 0.6 <= slowest <= 2.1


def test_a_refused_connection_costs_nobody_anything_and_is_tried_on_time(api):
    with watched(target(api)) as probe:
        time.sleep(0.3)
        api.stop()
        time.sleep(1.0)
    assert probe.stop().entries[0]["failed"] >= 0.5 * RATE


def test_slow_answers_are_good_and_measured(api):
    api.delay = 0.2
    receipt = watch(api, 0.8)
    entry = receipt.entries[0]
    assert entry["failed"] == 0
    # The server begins to wait when it has been asked; clocks tick in steps.
    assert 0.19 <= entry["p50"] < 0.2 + slack(receipt) and entry["requests"] >= 3


def test_stopping_waits_for_what_is_on_its_way(api):
    api.mode = "good"
    probe = Probe([target(api)], timeout=0.5, sparing=0).start()
    time.sleep(0.2)
    api.mode = "silent"
    time.sleep(0.2)
    began = time.monotonic()
    entry = probe.stop().entries[0]
    assert 0.3 < time.monotonic() - began < 0.5 + 3
    assert entry["failed"] >= 2 and entry["open"]


def test_what_comes_later_was_not_there_before_and_counts_from_then_on(api):
    api.stop()
    with watched(target(api)) as probe:
        time.sleep(0.7)
        api.start()
        there = time.time()
        time.sleep(2.5)
    receipt = probe.stop()
    entry = receipt.entries[0]
    assert entry["there_before"] is False and entry["failed"] == 0
    assert (
        there - 0.01 <= entry["first_answer"] <= there + 1.0 + slack(receipt)
    )  # what is not there is asked once a second
    assert entry["requests"] <= 3  # and afterwards no more often: it has no users yet
    assert receipt.services["web"]["there_before"] is False
    assert "not there before: web" in "\n".join(receipt.lines())


def test_recovery_after_a_mark(api):
    with watched(target(api)) as probe:
        time.sleep(0.2)
        probe.mark("killed")
        api.stop()
        time.sleep(0.6)
        api.start()
        time.sleep(0.3)
    receipt = probe.stop()
    assert 0.6 <= receipt.recovery("killed")["web"] <= 0.6 + 1 / RATE + slack(receipt)


def test_a_snapshot_does_not_disturb(api):
    with watched(target(api)) as probe:
        time.sleep(0.3)
        middle = probe.snapshot()
        time.sleep(0.3)
    assert middle.data["finished"] is None and 0 < middle.data["requests"] < probe.stop().data["requests"]


# --- tokens ---------------------------------------------------------------------------------------------------------


def account(identity, password=PASSWORD):
    return Account(f"{identity.url}/v3", "admin", "admin", password=password)


def test_a_request_with_token_names_the_project(api, identity):
    api.mode = lambda head: 200 if "X-Auth-Token: token-1" in head else 500
    wanted = target(api, "token", "/v1/%(project_id)s/stacks?limit=1")
    with watched(wanted, account=account(identity)) as probe:
        time.sleep(0.4)
    entry = probe.stop().entries[0]
    assert entry["there_before"] and entry["failed"] == 0 and entry["requests"] >= 3
    assert set(api.requests) == {"GET /v1/p1/stacks?limit=1 HTTP/1.1"}
    assert identity.given == 1


def test_what_a_token_is_no_use_for_has_failed(api, identity):
    api.mode = 404
    with watched(target(api, "token"), account=account(identity)) as probe:
        time.sleep(0.4)
    assert probe.stop().entries[0]["silent"] == "HTTP status 404"


def test_a_revoked_token_is_renewed_and_is_no_failure_of_the_service(api, identity):
    api.mode = lambda head: 200 if identity.knows(head) else 401
    with watched(target(api, "token"), account=account(identity)) as probe:
        time.sleep(0.3)
        identity.valid.clear()
        time.sleep(0.8)
    entry = probe.stop().entries[0]
    assert identity.given == 2
    assert entry["failed"] == 0 and entry["requests"] >= 3


def test_a_service_that_refuses_a_valid_token_has_failed(api, identity):
    with watched(target(api, "token"), account=account(identity)) as probe:
        time.sleep(0.3)
        api.mode = 401
        time.sleep(0.4)
        api.mode = "good"
        time.sleep(0.2)
    entry = probe.stop().entries[0]
    assert identity.given == 1
    assert set(entry["said"]) == {"HTTP status 401 with a valid token"}
    assert 0.3 < entry["outage"] < 0.4 + slack(probe.stop())


def test_without_a_token_nothing_is_asked_and_the_rest_goes_on(api, identity):
    targets = [target(api), target(api, "token", "/secret")]
    with watched(*targets, account=account(identity, "another")) as probe:
        time.sleep(0.3)
    plain, token = probe.stop().entries
    assert plain["requests"] > 0 and plain["failed"] == 0
    assert token["requests"] == 0 and token["silent"] == "there was no token to ask with"
    assert not any("/secret" in request for request in api.requests)


def test_a_token_is_had_as_soon_as_keystone_is_there(api, identity):
    identity.stop()
    with watched(target(api, "token"), account=account(identity)) as probe:
        time.sleep(0.3)
        assert api.requests == []
        identity.start()
        time.sleep(2.5)
    entry = probe.stop().entries[0]
    assert entry["there_before"] is False and entry["requests"] > 0 and entry["failed"] == 0


# --- TCP and TLS ----------------------------------------------------------------------------------------------------


class Database(Api):
    """Speaks first, as databases do."""

    def _serve(self, link):
        with link, contextlib.suppress(OSError):
            if self.mode == "deaf":
                return
            link.sendall(b"\x4a\x00\x00\x00\x0ahello")
            if link.recv(100) != b"login":
                return
            link.sendall(b"welcome " + (b"ON" if self.mode == "good" else b"OFF"))
            self.requests.append(link.recv(100).decode())


TALK = (("", "0a"), (b"login".hex(), b"welcome ON".hex()), (b"bye".hex(), ""))


def test_a_tcp_entry_is_talked_to_as_declared():
    database = Database()
    try:
        wanted = Target("db", "db", "tcp", f"tcp://127.0.0.1:{database.port}", "", RATE, TALK)
        with watched(wanted, timeout=0.6) as probe:
            time.sleep(0.4)
            database.mode = "off"
            time.sleep(0.4)
            database.mode = "deaf"
            time.sleep(0.4)
            database.mode = "good"
            time.sleep(0.2)
        entry = probe.stop().entries[0]
        assert set(entry["said"]) == {"no answer within 0.6 s", "connection closed without an answer"}
        assert entry["requests"] - entry["failed"] == database.requests.count("bye") >= 3
    finally:
        database.stop()


@pytest.fixture
def certificate(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cloud")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cloud.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def tls_api(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return Api(context=context)


def test_tls_works_with_the_sites_authority_and_without_one(certificate, tmp_path):
    server = tls_api(certificate)
    other = tmp_path / "other"
    other.mkdir()
    try:
        for authority in ("", str(certificate)):
            with watched(target(server), account=Account(authority=authority)) as probe:
                time.sleep(0.4)
            entry = probe.stop().entries[0]
            assert entry["there_before"] and entry["failed"] == 0 and entry["requests"] >= 3
    finally:
        server.stop()


def test_a_certificate_of_another_authority_is_no_answer(certificate):
    server = tls_api(certificate)
    try:
        system = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
        with watched(target(server), account=Account(authority=system)) as probe:
            time.sleep(0.3)
        entry = probe.stop().entries[0]
        assert entry["first_answer"] is None and entry["silent"].startswith("TLS: ")
    finally:
        server.stop()


def test_a_stalled_probe_does_not_blame_the_server(api):
    """An answer that lies in the socket when the probe gets to run again is an answer."""
    with watched(target(api), timeout=0.3) as probe:
        time.sleep(0.3)
        hold = threading.Event()
        probe._loop.call_soon_threadsafe(hold.wait, 1.0)
        time.sleep(1.5)
    receipt = probe.stop()
    assert receipt.failed == 0
    assert 0.8 < receipt.data["stall"] < 2.0


def test_an_address_that_nobody_holds_is_no_answer():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = taken.getsockname()[1]
        probe = Probe([Target("web", "web", "plain", f"http://127.0.0.1:{port}", "/", RATE)], timeout=0.3).start()
        receipt = probe.stop()
    assert receipt.lines() == ["availability: no API answered this machine through the VIP (connection refused)"]
