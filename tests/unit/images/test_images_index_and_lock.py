import hashlib
import json
import re
import tarfile
from io import BytesIO

import pytest
import yaml

from kolla_salt.images import lock
from kolla_salt.images.errors import ImageError
from kolla_salt.images.index import Index, Sdist, newest, parse_page
from kolla_salt.images.places import data_dir, load_release, releases

DIGEST = "a" * 64


def test_json_page_gives_sdists_of_the_project_that_were_not_withdrawn():
    files = [
        {"filename": "openstack_heat-26.0.1.tar.gz", "url": "../f/a", "hashes": {"sha256": DIGEST}},
        {"filename": "openstack_heat-26.0.2.tar.gz", "url": "../f/b", "hashes": {"sha256": DIGEST}, "yanked": "bad"},
        {"filename": "openstack_heat-26.0.1-py3-none-any.whl", "url": "../f/c", "hashes": {}},
        {"filename": "other-1.0.tar.gz", "url": "../f/d", "hashes": {}},
    ]
    found = parse_page(json.dumps({"files": files}), "https://index/simple/openstack-heat/", "openstack-heat")
    assert [(s.version, s.url) for s in found] == [("26.0.1", "https://index/simple/f/a")]


def test_html_page_gives_the_same():
    page = f'<a href="/f/nova-33.0.2.tar.gz#sha256={DIGEST}">x</a> <a data-yanked="" href="/f/nova-33.0.3.tar.gz">y</a>'
    (found,) = parse_page(page, "https://index/simple/nova/", "nova")
    assert (found.version, found.sha256, found.url) == ("33.0.2", DIGEST, "https://index/f/nova-33.0.2.tar.gz")


def test_newest_is_the_highest_final_version_in_the_range():
    versions = ["29.0.9", "29.1.0", "29.0.10", "29.2.0.0rc1", "30.0.0"]
    candidates = [Sdist("keystone", v, f"keystone-{v}.tar.gz", DIGEST) for v in versions]
    assert newest(candidates, ">=29,<30").version == "29.1.0"
    assert newest(candidates, ">=31") is None


class FakeIndex(Index):
    """An index with one source distribution of a given content."""

    def __init__(self, content):
        super().__init__(["https://index/simple"])
        self.content, self.asked = content, []

    def _get(self, url, accept="*/*"):
        self.asked.append(url)
        if url.endswith("/thing/"):
            row = {"filename": "thing-1.0.tar.gz", "url": "https://index/f/thing", "hashes": {"sha256": DIGEST}}
            return json.dumps({"files": [row]}).encode()
        return self.content


def test_fetch_downloads_once_and_checks_the_hash(tmp_path):
    digest = hashlib.sha256(b"source").hexdigest()
    index = FakeIndex(b"source")
    wanted = Sdist("thing", "1.0", "thing-1.0.tar.gz", digest)
    assert index.fetch(wanted, tmp_path).read_bytes() == b"source"
    asked = len(index.asked)
    index.fetch(wanted, tmp_path)
    assert len(index.asked) == asked


def test_fetch_refuses_another_content_and_leaves_nothing(tmp_path):
    with pytest.raises(ImageError, match="sha256"):
        FakeIndex(b"other").fetch(Sdist("thing", "1.0", "thing-1.0.tar.gz", DIGEST), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locked_sdists_round_trip():
    line = Sdist("openstack-placement", "15.0.0", "", DIGEST).line()
    found = lock.parse_sdists(f"# comment\n{line}\n")["openstack-placement"]
    assert (found.filename, found.sha256) == ("openstack_placement-15.0.0.tar.gz", DIGEST)


def test_constraints_archive_is_the_same_for_the_same_text():
    first = lock.constraints_archive("a===1\n")
    assert first == lock.constraints_archive("a===1\n") != lock.constraints_archive("a===2\n")
    with tarfile.open(fileobj=BytesIO(first)) as archive:
        assert archive.getnames() == ["requirements", "requirements/upper-constraints.txt"]


DOCKERFILE = """
RUN ln -s x y \\
    && python3 -m pip --no-cache-dir install --upgrade -c /requirements/upper-constraints.txt /keystone[ldap] \\
    && python3 -m pip --no-cache-dir install --upgrade -c /requirements/upper-constraints.txt glance_store[s3] 'x
RUN python3 -m pip --no-cache-dir install --upgrade -c /requirements/upper-constraints.txt /plugins/*; fi
RUN python3 -m pip install -c /requirements/upper-constraints.txt ansible-core==2.20.* Mako
"""


def test_requirements_come_from_the_rendered_dockerfiles():
    assert lock.pip_requirements([DOCKERFILE]) == ["ansible-core==2.20.*", "glance_store[s3]", "Mako"]
    assert lock.local_extras([DOCKERFILE]) == {"keystone": "[ldap]"}


def test_constraints_leave_out_the_projects_themselves():
    text = "nova==33.0.2\nOslo.Config[x]==10.0\nfoo==1 ; python_version > '3'\nheat @ file:///x\n"
    assert lock.constraints(text, {"nova"}).splitlines()[1:] == ["foo===1", "Oslo.Config===10.0"]


@pytest.mark.parametrize("name", releases())
def test_lock_files_of_a_release_are_complete(name):
    release = load_release(name)
    sources = lock.sdists(release)
    for section, row in release.projects.items():
        assert newest([sources[section]], row["versions"]), section
    rows = (release.folder / "upper-constraints.txt").read_text().splitlines()
    versions = dict(row.split("===") for row in rows if not row.startswith("#"))
    capped = [Sdist(key, versions[key], "", "") for key in release.caps if key in versions]
    for source in capped:
        assert newest([source], release.caps[source.project]["versions"]), source
    assert not {source.project for source in sources.values()} & set(versions)
    builder = re.search(r"^kolla==(\S+)", (release.folder / "kolla-build.txt").read_text(), re.MULTILINE)
    assert newest([Sdist("kolla", builder[1], "", "")], release.kolla), builder[1]


def test_a_site_has_the_newest_release_unless_it_names_another():
    declaration = yaml.safe_load((data_dir().parent / "salt" / "kolla" / "service.yaml").read_text())
    assert declaration["settings"]["openstack_release"]["default"] == releases()[-1]


def test_a_release_without_a_known_builder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "locks/2031.1").mkdir(parents=True)
    (tmp_path / "locks/2031.1/release.yml").write_text("base: debian\n")
    (tmp_path / "template-override.j2").write_text("")
    monkeypatch.setenv("KOLLA_SALT_IMAGES", str(tmp_path))
    with pytest.raises(ImageError, match=r"release 2031\.1: it is not in kolla_salt/releases\.py"):
        load_release()


def test_unknown_release_names_the_known_ones():
    with pytest.raises(ImageError, match=r"one of: 2025\.2, 2026\.1"):
        load_release("1999.1")
    assert releases() == ["2025.2", "2026.1"] and load_release().name == "2026.1"
