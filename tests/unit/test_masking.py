"""Differences of files never show a secret, known or not."""

import json

import pytest

from kolla_salt import masking
from kolla_salt.masking import LONGEST_DIFF, diff, mask, secret_values

KEY = """\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmU
AAAEbm9uZQAAAAAAAAABAAAA
-----END OPENSSH PRIVATE KEY-----
"""
PASSWORDS = {
    "db_password": "s3cr/t pw'x",
    "cookie": "COOKIEVALUE",
    "ssh": {"private_key": KEY, "public_key": "ssh-ed25519 AAAAPUBLIC"},
    "empty": "",
    "number": 123456789,
    "none": None,
}
SECRETS = secret_values(PASSWORDS)


def test_secret_values_are_flat_and_without_public_parts():
    assert {
        "s3cr/t pw'x": "db_password",
        "COOKIEVALUE": "cookie",
        KEY.strip("\n"): "ssh",
        "123456789": "number",
    } == SECRETS


@pytest.mark.parametrize(
    "text",
    [
        "password = s3cr/t pw'x\n",
        "x = a s3cr/t pw'x b\n",
        "url = mysql://u:s3cr%2Ft%20pw%27x@h/db\n",
        json.dumps({"p": "s3cr/t pw'x"}),
        "p: 's3cr/t pw''x'\n",
        "auth = czNjci90IHB3J3g=\n",
        KEY,
        "\n".join("    " + line for line in KEY.splitlines()),
        "n = 123456789\n",
    ],
)
def test_known_secrets_are_masked_in_every_shape(text):
    masked = mask(text, SECRETS)
    for piece in ("s3cr", "czNj", "b3Blbn", "AAAEbm9u", "12345"):
        assert piece not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    [
        "connection = mysql+pymysql://glance:OLDVALUE@10.0.0.1/glance\n",
        "transport_url = rabbit://openstack:OLDVALUE@a:5672,openstack:OLDVALUE2@b:5672//\n",
        "admin_password=OLDVALUE\n",
        "  memcache_secret_key : OLDVALUE\n",
        '"password": "OLDVALUE",\n',
        "    auth_pass OLDVALUE\n",
        "    stats auth admin:OLDVALUE\n",
        "metadata_proxy_shared_secret = OLDVALUE\n",
        "-----BEGIN RSA PRIVATE KEY-----\nOLDVALUE\n-----END RSA PRIVATE KEY-----\n",
    ],
)
def test_unknown_secrets_are_masked_by_where_they_stand(text):
    assert "OLDVALUE" not in mask(text, [])


@pytest.mark.parametrize(
    "text",
    [
        "auth_type = password\n",
        "www_authenticate_uri = http://10.0.0.10:5000\n",
        "ssl_key_file = /etc/key.pem\n",
        "password_file = /x\n",
        "service_token_roles_required = true\n",
        "server ctl1 10.0.0.11:5000 check\n",
        "memcached_servers = 10.0.0.1:11211,10.0.0.2:11211\n",
        "http-socket = 10.0.0.1:80\n",
    ],
)
def test_what_is_no_secret_stays_readable(text):
    assert mask(text, SECRETS) == text


def test_longer_secrets_go_first():
    assert mask("x = abcdef\n", ["abc", "abcdef"]) == "x = ***\n"


def test_a_change_is_shown_as_a_unified_difference():
    text = diff("[a]\nx = 1\ny = 2\n", "[a]\nx = 3\ny = 2\n", SECRETS)
    assert text.splitlines()[1:] == [" [a]", "-x = 1", "+x = 3", " y = 2"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # a URL
        ("c = x://u:OLDVALUE@h\n", "c = x://u:s3cr%2Ft%20pw%27x@h\n"),
        # the key says nothing, the place does
        ("a = 1\nfoo = OLDVALUE\nb = 2\n", "a = 1\nfoo = s3cr/t pw'x\nb = 2\n"),
        # ... and the rest of the line differs too
        ("foo = OLDVALUE tail\n", "foo = s3cr/t pw'x other\n"),
        # a file that is one secret
        ("OLDVALUE\n", "COOKIEVALUE\n"),
        ("OLDVALUE", "COOKIEVALUE"),
    ],
)
def test_a_secret_that_nobody_knows_any_more_is_masked_where_the_new_one_stands(old, new):
    text = diff(old, new, SECRETS, ["db_password", "cookie"])
    assert "OLDVALUE" not in text
    assert "s3cr" not in text
    assert "COOKIEVALUE" not in text
    assert text.startswith("secret ")


def test_a_change_only_in_a_secret_names_the_secret():
    old, new = "password = OLDVALUE\n", "password = s3cr/t pw'x\n"
    assert diff(old, new, SECRETS, ["db_password", "cookie"]) == "secret db_password changed"


def test_a_difference_that_cannot_be_shown_is_not_silent():
    assert "differs" in diff("password = OLD\n", "password = NEW\n", {}, [])
    assert "end of lines" in diff("a = 1", "a = 1\n", {}, [])


def test_a_long_difference_is_capped():
    text = diff("", "".join(f"line {number}\n" for number in range(5000)), SECRETS)
    assert len(text) < LONGEST_DIFF + 100
    assert text.splitlines()[-1].startswith("[... ")


def test_masking_scales_to_a_clouds_passwords():
    passwords = {f"p{number}": f"value-number-{number:04}" * 2 for number in range(150)}
    text = "\n".join(f"option_{number} = {number}" for number in range(600))
    assert masking.mask(text, secret_values(passwords)) == text
