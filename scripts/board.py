"""Make and boot an emulated arm64 board, to try a flashed image without one.

    python -m scripts.board make FOLDER     Debian for arm64 as a disk image; takes root, minutes
    python -m scripts.board boot FOLDER     boot it; the console is FOLDER/console.log

`make` writes `disk.img` (MBR: a FAT partition and the ext4 root, as a vendor's image has them),
`vmlinuz`, `initrd` and `key`, the SSH key of the user `user`, who may use sudo without a password.
`boot` runs until it is interrupted; ports of the board are on loopback: 22 is 10022, 8080 is 18080,
and the board reaches this machine's loopback as 10.0.2.2. Needs mmdebstrap, qemu-user-static, cpio,
fdisk, dosfstools, e2fsprogs and qemu-system-arm.

The kernel starts from a small initrd of our own: the distribution's would be made by emulated code,
which takes twenty minutes.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "udev", "openssh-server", "iproute2", "sudo", "ca-certificates")
DISK_MIB, BOOT_MIB = 1536, 64
SECTORS_PER_MIB = 2048
# In the order in which they depend on each other.
MODULES = (
    *("virtio_mmio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_blk", "failover", "net_failover", "virtio_net"),
    *("crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4"),
)
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do
    /bin/busybox insmod /modules/$module.ko || echo "no module $module"
done
/bin/busybox mount -t ext4 /dev/vda2 /root || exec /bin/busybox sh
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""
NETWORK = "[Match]\nName=e*\n[Network]\nDHCP=yes\n"


def _run(*command: str | Path, **options: object) -> None:
    print("+", *command, file=sys.stderr)  # noqa: T201
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def make(folder: Path) -> None:
    """Write the disk image, the kernel, the initrd and the SSH key into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _kernel(folder, Path(scratch))
        _disk(folder, Path(scratch))


def _debian(tree: Path, *options: str) -> None:
    """Install Debian into a new folder."""
    archive = tree.with_suffix(".tar")
    # By way of an archive: mmdebstrap mounts /proc and /sys in its folder, and one that was
    # interrupted would leave them in ours, to be removed with it.
    _run("mmdebstrap", *options, SUITE, archive)
    tree.mkdir()
    _run("tar", "--extract", "--file", archive, "--directory", tree, "--numeric-owner")
    archive.unlink()


def _kernel(folder: Path, scratch: Path) -> None:
    """Take the kernel out of its package, and put the modules that it needs into an initrd."""
    tree = scratch / "kernel"
    options = ("--variant=extract", "--architectures=arm64")
    hook = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
    packages = "--include=linux-image-arm64,busybox-static"
    _debian(tree, *options, hook, packages)
    shutil.copy(next((tree / "boot").glob("vmlinuz-*")), folder / "vmlinuz")
    initrd = scratch / "initrd"
    for name in ("bin", "dev", "proc", "root", "modules"):
        (initrd / name).mkdir(parents=True)
    shutil.copy(tree / "bin/busybox", initrd / "bin/busybox")
    modules = {path.stem: path for path in (tree / "lib/modules").rglob("*.ko")}
    present = [name for name in MODULES if name in modules]
    for name in present:
        shutil.copy(modules[name], initrd / "modules")
    (initrd / "init").write_text(INIT.format(modules=" ".join(present)))
    (initrd / "init").chmod(0o755)
    with (folder / "initrd").open("wb") as archive:
        names = "\n".join(str(path.relative_to(initrd)) for path in sorted(initrd.rglob("*")))
        command = ("cpio", "--create", "--format=newc", "--quiet")
        _run(*command, cwd=initrd, input=names.encode(), stdout=archive)


def _disk(folder: Path, scratch: Path) -> None:
    """Install Debian into a folder, and make a partitioned image of it."""
    root = scratch / "root"
    options = ("--variant=minbase", "--architectures=arm64", f"--include={','.join(PACKAGES)}")
    _debian(root, *options)
    _run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "user")
    (root / "etc/sudoers.d/user").write_text("user ALL=(ALL) NOPASSWD: ALL\n")
    (root / "etc/systemd/network/wired.network").write_text(NETWORK)
    _run("systemctl", f"--root={root}", "enable", "systemd-networkd")
    (root / "etc/hostname").write_text("board\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 board\n")
    (root / "etc/fstab").write_text("/dev/vda2 / ext4 defaults 0 1\n")
    home = root / "home/user/.ssh"
    home.mkdir(mode=0o700)
    shutil.copy(folder / "key.pub", home / "authorized_keys")
    _run("chroot", root, "chown", "-R", "user:user", "/home/user")
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    start = (1 + BOOT_MIB) * SECTORS_PER_MIB
    table = f"start={SECTORS_PER_MIB}, size={BOOT_MIB}MiB, type=c\nstart={start}, type=83\n"
    _run("sfdisk", "--quiet", "--label", "dos", disk, input=table.encode())
    size = (DISK_MIB - 1 - BOOT_MIB) * 1024
    _run("mkfs.vfat", "-F", "16", "--offset", str(SECTORS_PER_MIB), disk, str(BOOT_MIB * 1024))
    offset = f"offset={start * 512}"
    _run("mke2fs", "-q", "-t", "ext4", "-E", offset, "-d", root, disk, f"{size}k")


def boot(folder: Path) -> int:
    """Boot the board, and wait for its end."""
    forwards = "hostfwd=tcp:127.0.0.1:10022-:22,hostfwd=tcp:127.0.0.1:18080-:8080"
    with (folder / "console.log").open("ab") as console:
        return subprocess.call(
            [
                *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2"),
                *("-m", "2048", "-nographic", "-no-reboot"),
                *("-kernel", folder / "vmlinuz", "-initrd", folder / "initrd"),
                *("-append", "console=ttyAMA0"),
                *("-drive", f"if=virtio,format=raw,file={folder / 'disk.img'}"),
                *("-netdev", f"user,id=net,{forwards}", "-device", "virtio-net-pci,netdev=net"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "boot"):
        sys.exit(__doc__)
    sys.exit({"make": make, "boot": boot}[sys.argv[1]](Path(sys.argv[2])))
