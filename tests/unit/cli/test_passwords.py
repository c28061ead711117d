"""Making and merging passwords."""

import stat
import uuid

import bcrypt
import pytest
import yaml
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kolla_salt import passwords

KINDS = {
    "db": {"kind": "password"},
    "id": {"kind": "uuid"},
    "key": {"kind": "fernet"},
    "hex": {"kind": "hex32"},
    "mac": {"kind": "hmac_md5"},
    "hash": {"kind": "bcrypt", "of": "db"},
    "web": {"kind": "htpasswd", "of": "db", "user": "u"},
    "given": {"kind": "none"},
}


def test_every_kind_is_made_in_its_form():
    new, report = passwords.fill({}, KINDS)
    assert len(new["db"]) == passwords.LENGTH and new["db"].isalnum()
    assert str(uuid.UUID(new["id"])) == new["id"]
    Fernet(new["key"])
    assert len(bytes.fromhex(new["hex"])) == 16
    assert bcrypt.checkpw(new["db"].encode(), new["hash"].encode())
    assert new["web"].startswith("u:$2")
    assert report.open == ["given"]
    assert set(report.made) == set(KINDS) - {"given"}


def test_an_ssh_key_is_a_pair():
    pair = passwords.make("ssh_key")
    key = load_pem_private_key(pair["private_key"].encode(), None)
    assert key.key_size == 4096
    assert pair["public_key"].startswith("ssh-rsa ")


def test_two_passwords_are_not_the_same():
    assert passwords.make("password") != passwords.make("password")


def test_what_is_set_is_kept_and_a_hash_follows_its_password():
    new, _ = passwords.fill({}, KINDS)
    again, report = passwords.fill({**new, "given": "x"}, KINDS)
    assert again == {} and report.made == []
    changed, report = passwords.fill({**new, "given": "x", "db": "another one"}, KINDS)
    assert set(report.made) == {"hash", "web"}
    assert bcrypt.checkpw(b"another one", changed["hash"].encode())


def test_a_hash_of_nothing_is_refused():
    with pytest.raises(passwords.PasswordError, match="no such password is declared"):
        passwords.fill({}, {"hash": {"kind": "bcrypt", "of": "nobody"}})


def test_the_file_keeps_comments_and_order_and_is_private(tmp_path):
    path = tmp_path / "passwords.yml"
    path.write_text("---\n# mine\nid: keep-me\ndb:\n\n# below\nextra: 1\n")
    path.chmod(0o644)
    report = passwords.generate(path, {"a": {"passwords": KINDS}})
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (
        text.index("# mine")
        < text.index("id: keep-me")
        < text.index("db: ")
        < text.index("# below")
        < text.index("key: ")
    )
    assert yaml.safe_load(text)["id"] == "keep-me"
    assert report.undeclared == ["extra"]
    before = path.read_bytes()
    passwords.generate(path, {"a": {"passwords": KINDS}})
    assert path.read_bytes() == before


def test_a_key_of_several_lines_replaces_an_empty_one():
    text = passwords.insert(
        "a:\n  private_key:\n  public_key:\nb: 1\n", {"a": {"private_key": "x\ny\n", "public_key": "z\n"}}
    )
    assert yaml.safe_load(text) == {"a": {"private_key": "x\ny\n", "public_key": "z\n"}, "b": 1}


def test_old_passwords_win_and_clean_drops_unknown_ones():
    assert passwords.merge({"a": "old", "gone": 1}, {"a": "new", "b": 2}) == {"a": "old", "gone": 1, "b": 2}
    assert passwords.merge({"a": "old", "gone": 1}, {"a": "new", "b": 2}, clean=True) == {"a": "old", "b": 2}


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "p.yml"
    path.write_text("- a\n")
    with pytest.raises(passwords.PasswordError, match="expected a mapping"):
        passwords.read(path)
