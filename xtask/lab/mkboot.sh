#!/bin/bash
# mkboot.sh IMAGE FOLDER: a disk with a Debian that boots by itself (MBR, /boot and /, both ext4; extlinux; systemd) and has
# the files of FOLDER over its own,
# among them the agent's unit. /manifest has the digest of every file in it that is not written to while it runs.
# Needs root, and on the host: debootstrap extlinux e2fsprogs fdisk
set -euo pipefail
. "$(dirname "$0")/env.sh"
image=$1 folder=$2
tree=$LABWORK/boottree-$LAB_KERNELS

if [ ! -e "$tree/.done" ]; then
  rm -rf "$tree"
  debootstrap --variant=minbase --include=systemd-sysv,udev,kmod,linux-base,initramfs-tools,e2fsprogs,procps,iproute2,python3-minimal,zstd \
    "$LAB_SUITE" "$tree" "$LAB_MIRROR"
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*_* "$tree"/usr/share/{doc,man,locale,info}/*
  # Only what its disk needs: as with MODULES=dep on the machine itself.
  sed -i 's/^MODULES=.*/MODULES=list/' "$tree/etc/initramfs-tools/initramfs.conf"
  printf '%s\n' virtio_pci virtio_blk ext4 >>"$tree/etc/initramfs-tools/modules"
  mkdir "$tree/deb"; (cd "$tree/deb" && apt-get -qq download "$("$LAB/kernel" "$LAB_KERNELS")") 2>/dev/null
  chroot "$tree" sh -c 'DEBIAN_FRONTEND=noninteractive dpkg -i /deb/*.deb' >"$LABWORK/boottree.log" 2>&1
  rm -r "$tree/deb"
  version=$(ls "$tree/lib/modules")
  echo lab >"$tree/etc/hostname"; systemd-id128 new >"$tree/etc/machine-id" 2>/dev/null || tr -d - </proc/sys/kernel/random/uuid >"$tree/etc/machine-id"
  printf '%s\n' 'LABEL=labroot / ext4 defaults 0 1' 'LABEL=labboot /boot ext4 defaults 0 2' >"$tree/etc/fstab"
  printf '[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' >"$tree/etc/systemd/network/lab.network"
  chroot "$tree" systemctl --quiet enable systemd-networkd
  # What runs by the clock would be at work in some runs and not in others; the console belongs to the report.
  chroot "$tree" systemctl --quiet mask serial-getty@ttyS0 apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap fstrim.timer systemd-networkd-wait-online
  mkdir -p "$tree/boot/extlinux"
  cat >"$tree/boot/extlinux/extlinux.conf" <<C
DEFAULT debian
PROMPT 0
TIMEOUT 1
LABEL debian
  LINUX /vmlinuz-$version
  INITRD /initrd.img-$version
  APPEND root=LABEL=labroot ro console=ttyS0 quiet mitigations=off systemd.show_status=0
C
  touch "$tree/.done"
fi

rm -f "$image"; truncate -s 1200M "$image"
sfdisk --quiet "$image" <<'T'
label: dos
start=2048, size=262144, type=83, bootable
start=264192, type=83
T
dd if=/usr/lib/EXTLINUX/mbr.bin of="$image" conv=notrunc bs=440 count=1 status=none
parts=() mounts=$(mktemp -d)
end() {
  umount -R "$mounts" 2>/dev/null || :
  rmdir "$mounts"
  for part in "${parts[@]}"; do losetup -d "$part"; done
}
trap end EXIT
part() { parts+=("$(losetup --find --show --offset $(($1 * 512)) --sizelimit $(($2 * 512)) "$image")"); }
part 2048 262144
part 264192 $((1200 * 2048 - 264192))
# extlinux reads no ext4 with these; / is as Debian makes it.
mkfs.ext4 -qF -L labboot -O ^64bit,^metadata_csum,^orphan_file "${parts[0]}"
mkfs.ext4 -qF -L labroot "${parts[1]}"
mount "${parts[1]}" "$mounts"; mkdir "$mounts/boot"; mount "${parts[0]}" "$mounts/boot"
cp -a "$tree/." "$mounts/"; rm "$mounts/.done"
cp -r "$LAB/boot/." "$mounts/"
cp -r --preserve=mode "$folder/." "$mounts/"
chroot "$mounts" systemctl --quiet enable lab-report lab-writer blxrep-agent
extlinux --install "$mounts/boot/extlinux" >/dev/null 2>&1
(cd "$mounts" && find . boot -xdev -type f ! -path './var/*' ! -path './run/*' ! -path './tmp/*' ! -path ./manifest ! -path boot/extlinux/ldlinux.sys -print0 |
  sort -z | xargs -0 sha256sum) >"$LABWORK/manifest"
mv "$LABWORK/manifest" "$mounts/manifest"
wc -l <"$mounts/manifest"
