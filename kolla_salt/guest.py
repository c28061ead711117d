"""A guest system of ten megabytes that boots in seconds: a distribution's kernel and busybox, nothing else.

It takes an address by DHCP, asks the metadata service who it is, tells all that on its serial console, answers ping and
serves one page on port 80. Kernel and ramdisk are two images; the server's own disk stays empty.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kolla_salt import paths

#: What the guest says when all is done; the smoke check waits for it.
READY = "kolla-salt guest: ready"
#: Kernels for virtual machines, by distribution; the first that can be had is taken.
KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic")
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "af_packet", "ipv6")

#: Changes when the ramdisk is put together in another way.
FORMAT = "1"

INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /etc /www /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
while read module; do insmod "/modules/$module" 2>/dev/null; done < /modules/order
tty=/dev/console
[ -c /dev/ttyS0 ] && tty=/dev/ttyS0
exec <"$tty" >"$tty" 2>&1
say() { echo "kolla-salt guest: $*"; }
say "booted $(uname -r) after $(cut -d' ' -f1 /proc/uptime) s"
ip link set lo up
tries=0
while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
ip link set eth0 up
udhcpc -i eth0 -s /udhcpc -t 30 -T 2 -A 2 -n -q || say "FAILED: no address by DHCP"
say "address $(ip -4 -o address show dev eth0 | awk '{print $4}')"
# Not wget: a static busybox crashes when it looks up the port of "http". The input stays open for a while, since a
# proxy may take its end for the client's departure.
metadata() {
    { printf 'GET /openstack/latest/meta_data.json HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n'; sleep 3; } |
        nc -w 10 169.254.169.254 80 2>/dev/null | tr -d '\r' | sed '1,/^$/d'
}
field() { echo "$data" | sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
tries=0
until data=$(metadata) && id=$(field uuid) && [ -n "$id" ]; do
    tries=$((tries + 1))
    [ $tries -ge 30 ] && break
    sleep 1
done
if [ -n "$id" ]; then
    name=$(field hostname)
    hostname "$name"
    say "metadata uuid $id"
    say "metadata hostname $name"
else
    say "FAILED: no answer from the metadata service 169.254.169.254"
fi
echo "<html><body><h1>It works</h1><p>$id $name</p></body></html>" > /www/index.html
httpd -p 80 -h /www
say "ready after $(cut -d' ' -f1 /proc/uptime) s"
echo "kolla-salt guest: ready"
trap : TERM INT
while true; do sleep 3600 & wait $!; done
"""

UDHCPC = r"""#!/bin/busybox sh
case "$1" in
bound|renew)
    ip address flush dev "$interface"
    ip address add "$ip/${mask:-24}" broadcast + dev "$interface"
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    for address in $router; do ip route add default via "$address" dev "$interface"; break; done
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        [ "$1" = 0.0.0.0/0 ] || ip route add "$1" via "$2" dev "$interface"
        shift 2
    done
    : > /etc/resolv.conf
    for address in $dns; do echo "nameserver $address" >> /etc/resolv.conf; done
    ;;
esac
"""


class GuestError(Exception):
    """The guest's parts cannot be had or built."""


@dataclass(frozen=True)
class Guest:
    """The files of a built guest, and the version of its kernel."""

    kernel: Path
    ramdisk: Path
    version: str


def _run(command: list[str], what: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=cwd)
    except FileNotFoundError as error:
        raise GuestError(f"{what}: there is no program {command[0]}; expected a Debian or Ubuntu machine") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-600:]
        raise GuestError(
            f"{what}: '{' '.join(command)}' ended with status {done.returncode}: {said}; 'apt-get update' may mend it"
        )
    return done.stdout


def plain_kernel(data: bytes) -> bytes:
    """Return a kernel without the signature of a boot sector, which QEMU does not ask for.

    Nova looks at what it fetches for a server that migrates, takes the signature for that of a partitioned disk, finds
    no valid partition and refuses the image.
    """
    return data[:510] + b"\0\0" + data[512:] if data[510:512] == b"\x55\xaa" else data


def kernel_packages(depends: dict[str, str], meta: str) -> list[str]:
    """Return the packages with kernel and modules behind a meta package.

    Args:
        depends: package -> its ``Depends`` line.
        meta: such as ``linux-image-cloud-amd64``.
    """
    found: list[str] = []
    todo = [meta]
    while todo:
        name = todo.pop(0)
        for part in re.split(r"[,|]", depends.get(name, "")):
            other = re.sub(r"\(.*?\)", "", part).strip().split(":")[0]
            if re.match(r"linux-(image|modules)(-extra)?-(unsigned-)?\d", other) and other not in found:
                found.append(other)
                todo.append(other)
    return found


def _download(directory: Path) -> None:
    """Fetch the packages into ``directory``."""
    packages: list[str] = []
    for meta in KERNELS:
        shown = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", meta], capture_output=True, text=True, timeout=120, check=False
        )
        if shown.returncode != 0:
            continue
        depends = {meta: _depends(shown.stdout)}
        for name in kernel_packages(depends, meta):
            depends[name] = _depends(_run(["apt-cache", "show", "--no-all-versions", name], f"looking up {name}"))
        packages = kernel_packages(depends, meta)
        if packages:
            break
    if not packages:
        raise GuestError(
            f"looking for a kernel for the guest: none of the packages {', '.join(KERNELS)} is known; "
            "expected one; run 'apt-get update'"
        )
    # apt drops its privileges for the download where it can; the folder is root's, and that is what it warns about.
    _run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, "busybox-static"],
        "fetching the guest's kernel and busybox",
        cwd=directory,
    )


def _depends(shown: str) -> str:
    match = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
    return match.group(1) if match else ""


def depends_of(module: bytes) -> list[str]:
    """Return the modules that a kernel module says it needs, from its ELF section ``.modinfo``."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in match.group(1).decode().split(",") if name] if match else []


def module_order(modules: Mapping[str, bytes], wanted: Iterable[str]) -> list[str]:
    """Return the names of the modules to load, what they need first.

    Args:
        modules: name -> content, of every module there is; what is built into the kernel is not among them.
        wanted: names; those that are not there are left out.
    """
    order: list[str] = []

    def add(name: str) -> None:
        if name in modules and name not in order:
            for other in depends_of(modules[name]):
                add(other)
            order.append(name)

    for name in wanted:
        add(name)
    return order


class _Modules(Mapping[str, bytes]):
    """The modules of a kernel by name, read and unpacked when asked for."""

    def __init__(self, folder: Path) -> None:
        self.files = {re.sub(r"\.ko(\.\w+)?$", "", path.name).replace("-", "_"): path for path in folder.rglob("*.ko*")}
        self.read: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self.read:
            self.read[name] = _plain_module(self.files[name])
        return self.read[name]

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return a newc archive.

    Args:
        entries: name, mode with the file type's bits, content.
    """
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def _plain_module(path: Path) -> bytes:
    """Return a module as the kernel wants it; distributions compress them in several ways."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        try:
            import zstandard  # Ubuntu's; Debian's need none
        except ImportError as error:
            raise GuestError(
                f"unpacking {path.name} for the guest: it needs the Python package zstandard, which is not installed "
                "here; salt-pip install zstandard (or the pip of this Python)"
            ) from error
        # A frame of a kernel module does not say how long its content is.
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def ramdisk(root: Path, version: str) -> bytes:
    """Return the guest's initramfs.

    Args:
        root: folder into which the packages were extracted.
        version: of the kernel.

    Raises:
        GuestError: busybox or the modules are missing.
    """
    busybox = next((path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.is_file()), None)
    modules = next(
        (path for path in (root / "usr/lib/modules" / version, root / "lib/modules" / version) if path.is_dir()), None
    )
    if busybox is None or modules is None:
        raise GuestError(
            f"building the guest: {root} has no {'busybox' if busybox is None else 'modules of ' + version}; "
            f"remove {root.parent} and try again"
        )
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"")
        for name in ("bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "www")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, INIT.encode()))
    entries.append(("udhcpc", stat.S_IFREG | 0o755, UDHCPC.encode()))
    found = _Modules(modules)
    names = module_order(found, MODULES)
    entries += [(f"modules/{name}.ko", stat.S_IFREG | 0o644, found[name]) for name in names]
    entries.append(("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}.ko\n" for name in names).encode()))
    return gzip.compress(cpio(entries), compresslevel=6, mtime=0)


def build(cache: Path | None = None) -> Guest:
    """Return the guest, built if it is not in the cache.

    Args:
        cache: folder; default ``/var/cache/kolla-salt/guest``.

    Raises:
        GuestError: a package cannot be had, or is not as expected.
    """
    cache = cache or paths.cache_dir("guest")
    stamp = hashlib.sha256((FORMAT + INIT + UDHCPC + " ".join(MODULES)).encode()).hexdigest()[:12]
    kernel, disk, version = cache / "kernel", cache / f"ramdisk-{stamp}", cache / "version"
    if kernel.exists() and disk.exists() and version.exists():
        return Guest(kernel, disk, version.read_text().strip())
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        work = Path(folder)
        _download(work)
        root = work / "root"
        root.mkdir()
        for package in sorted(work.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(root)], f"unpacking {package.name}")
        images = sorted(root.glob("boot/vmlinuz-*"))
        if not images:
            raise GuestError(
                f"building the guest: none of {', '.join(p.name for p in work.glob('*.deb'))} has a kernel in /boot"
            )
        found = images[-1].name.removeprefix("vmlinuz-")
        (work / "ramdisk").write_bytes(ramdisk(root, found))
        shutil.copyfile(images[-1], work / "kernel")
        (work / "version").write_text(found + "\n")
        for old in cache.glob("ramdisk-*"):
            old.unlink()
        for source, target in ((work / "kernel", kernel), (work / "version", version), (work / "ramdisk", disk)):
            os.replace(source, target)
    return Guest(kernel, disk, found)
