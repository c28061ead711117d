"""The guest's ramdisk, without fetching anything."""

import gzip
import lzma
import shutil
import subprocess
import sys

import pytest
import zstandard

from kolla_salt import guest


def module(*needs):
    return b"\x7fELF..\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_modules_come_after_what_they_need():
    modules = {
        "virtio_net": module("net_failover"),
        "net_failover": module("failover"),
        "failover": module(),
        "other": module(),
    }
    assert guest.module_order(modules, ["virtio_net", "built_in", "failover"]) == [
        "failover",
        "net_failover",
        "virtio_net",
    ]


@pytest.mark.parametrize(
    ("ending", "packed"),
    [
        ("", lambda data: data),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.ZstdCompressor(write_content_size=False).compress),
    ],
)
def test_modules_are_read_however_a_distribution_packs_them(tmp_path, ending, packed):
    path = tmp_path / f"virtio_net.ko{ending}"
    path.write_bytes(packed(module("net_failover")))
    assert guest._plain_module(path) == module("net_failover")


def test_what_unpacks_modules_is_named_where_it_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "virtio_net.ko.zst"
    path.write_bytes(zstandard.compress(module()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(guest.GuestError, match=r"virtio_net.ko.zst .*zstandard.*salt-pip install zstandard"):
        guest._plain_module(path)


def test_the_packages_behind_a_meta_package_are_found():
    depends = {
        "linux-image-virtual": "linux-image-6.8.0-45-generic (>= 1), grub-pc | zipl",
        "linux-image-6.8.0-45-generic": "kmod, linux-modules-6.8.0-45-generic",
    }
    assert guest.kernel_packages(depends, "linux-image-virtual") == [
        "linux-image-6.8.0-45-generic",
        "linux-modules-6.8.0-45-generic",
    ]


@pytest.mark.skipif(not shutil.which("cpio"), reason="no cpio to read the archive with")
def test_cpio_reads_the_archive(tmp_path):
    data = guest.cpio([("bin", 0o040755, b""), ("bin/a", 0o100755, b"hello"), ("init", 0o100755, b"x" * 7)])
    subprocess.run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "bin" / "a").read_bytes() == b"hello"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755


def test_the_ramdisk_has_busybox_modules_and_an_init_and_is_reproducible(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").write_bytes(b"BUSYBOX")
    folder = tmp_path / "usr/lib/modules/6.1/kernel/drivers"
    folder.mkdir(parents=True)
    (folder / "virtio-net.ko").write_bytes(module("failover"))
    (folder / "failover.ko.gz").write_bytes(gzip.compress(module()))
    data = guest.ramdisk(tmp_path, "6.1")
    assert data == guest.ramdisk(tmp_path, "6.1")
    content = gzip.decompress(data)
    assert b"BUSYBOX" in content and b"failover.ko\nvirtio_net.ko\n" in content
    assert guest.READY.encode() in content


def test_scripts_are_valid_shell(tmp_path):
    for name, text in (("init", guest.INIT), ("udhcpc", guest.UDHCPC)):
        path = tmp_path / name
        path.write_text(text)
        subprocess.run(["sh", "-n", str(path)], check=True)


def test_a_folder_without_modules_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"x")
    with pytest.raises(guest.GuestError, match="no modules of 6.1"):
        guest.ramdisk(tmp_path, "6.1")


def test_a_kernel_is_not_taken_for_a_partitioned_disk():
    kernel = b"MZ" + b"c" * 508 + b"\x55\xaa" + b"HdrS"
    plain = guest.plain_kernel(kernel)
    assert plain == b"MZ" + b"c" * 508 + b"\0\0" + b"HdrS"
    assert guest.plain_kernel(plain) == plain
