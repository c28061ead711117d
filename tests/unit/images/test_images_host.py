from kolla_salt.images import host
from kolla_salt.images.host import HostSettings

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


def test_only_the_certificates_that_other_machines_lack_are_taken():
    usual, own = PEM.format("AAAA\nBBBB"), PEM.format("CCCC\nDDDD")
    assert host.additional_certificates(f"{usual}\n{own}\n{own}\n", [usual]) == [own]


def test_apt_settings_are_those_that_decide_about_reaching_a_source():
    dump = "\n".join(
        [
            'Acquire::http::Proxy "http://proxy:3142";',
            'Acquire::https::Proxy::deb.example "DIRECT";',
            'Acquire::Check-Date "false";',
            'Acquire::https::Proxy "";',
            'Acquire::IndexTargets::deb::DEP-11 "";',
            'Acquire::Languages "none";',
        ]
    )
    assert host.parse_apt_config(dump) == [
        'Acquire::http::Proxy "http://proxy:3142";',
        'Acquire::https::Proxy::deb.example "DIRECT";',
        'Acquire::Check-Date "false";',
    ]


def test_pip_settings_of_the_environment_win_and_folders_of_this_machine_are_left_out():
    listing = "\n".join(
        [
            "global.index-url='https://one/simple'",
            ":env:.index-url='https://two/simple'",
            ":env:.default-timeout='180'",
            "global.extra-index-url='file:///somewhere https://three/simple'",
            "global.find-links='/wheels'",
            "global.cert='/etc/ca.crt'",
        ]
    )
    assert host.parse_pip_config(listing) == {
        "index-url": "https://two/simple",
        "timeout": "180",
        "extra-index-url": "https://three/simple",
    }


def test_pip_trusts_the_bundle_of_the_image_only_when_it_has_more_than_usual():
    assert host.HostSettings().pip_conf() == "[global]\n"
    assert "cert = /etc/ssl/certs/ca-certificates.crt" in HostSettings(certificates=["x"]).pip_conf()


def test_mirrors_are_recognised_by_label():
    text = "Docker|https://docker.example/\nDebian|http://mirror/debian/\nDebian-Security|file:/media/x\n"
    assert host.parse_index_targets(text) == {"Debian": "http://mirror/debian"}


def test_package_sources_are_written_for_a_mirror_only():
    assert HostSettings().debian_sources("trixie") is None
    text = HostSettings(debian="http://mirror/debian").debian_sources("trixie")
    assert "URIs: http://mirror/debian\nSuites: trixie trixie-updates trixie-backports\n" in text
    assert "Suites: trixie-security\n" in text


def test_write_makes_every_file_that_the_override_copies(tmp_path):
    HostSettings(certificates=["one", "two"], apt=['Acquire::Retries "3";']).write(tmp_path, "trixie")
    given = tmp_path / "base" / "build-input"
    assert sorted(path.name for path in (given / "ca").iterdir()) == ["build-00.crt", "build-01.crt"]
    assert (given / "apt" / "90-build").read_text() == 'Acquire::Retries "3";\n'
    assert (given / "pip.conf").read_text().startswith("[global]\n")
    assert not (tmp_path / "base" / "debian.sources").exists()
    older = (tmp_path / "base" / "sources.list.debian").read_text()
    assert [line.split()[2] for line in older.splitlines()] == ["trixie", "trixie-updates", "trixie-security"]


def test_indexes_keep_pips_order_without_repetition():
    assert HostSettings().index_urls() == [host.PYPI]
    settings = HostSettings(
        pip={"index-url": "https://a/simple", "extra-index-url": "https://b/simple https://a/simple"}
    )
    assert settings.index_urls() == ["https://a/simple", "https://b/simple"]
