#!/bin/bash
# Makes the smallest operating system that shows that a server was provisioned: a Debian kernel and an init that prints
# what it finds on the config drive to the serial port. It boots by BIOS and by UEFI.
#
#   build.sh WORK OUT
set -euo pipefail
export LC_ALL=C TZ=UTC
work=$1 out=$2
disk=$work/tiny.raw
say() { printf 'tiny system: %s\n' "$*"; }

say 'packages'
cd "$work"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
# The user that apt fetches as cannot write into this folder, which is only worth a warning.
apt-get download -q "$kernel" busybox-static 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" packages; done
vmlinuz=$(echo packages/boot/vmlinuz-*)
version=${vmlinuz#packages/boot/vmlinuz-}

say 'initramfs'
depmod -b packages "$version"
mkdir -p initramfs/{bin,dev,proc,sys,mnt,modules}
cp packages/bin/busybox initramfs/bin/busybox
# In the order in which they have to be loaded.
modprobe -d packages -S "$version" --show-depends -a virtio_pci virtio_blk virtio_scsi sd_mod nvme ahci \
  vfat nls_cp437 nls_ascii nls_utf8 2>/dev/null | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' > modules || true
while read -r module; do
  cp "$module" initramfs/modules/
  basename "$module"
done < modules > initramfs/modules/list
cat > initramfs/init <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
while read -r module; do insmod "/modules/$module"; done < /modules/list
[ -d /sys/firmware/efi ] && firmware=UEFI || firmware=BIOS
echo "tiny: up, firmware $firmware"
sed 's/^/tiny: command line: /' /proc/cmdline
look() {
  # What the provider gave to a system that runs from memory.
  seed=/var/lib/cloud/seed/nocloud
  if [ -f $seed/meta-data ]; then
    echo 'tiny: configured in memory'
    sed 's/^/tiny: meta-data: /' $seed/meta-data
    sed -n 's/^.*\(marker.*\)$/tiny: user-data: \1/p' $seed/user-data
    return 0
  fi
  for found in /sys/class/block/*/partition; do
    name=${found%/partition}
    name=${name##*/}
    mount -t vfat -o ro "/dev/$name" /mnt 2>/dev/null || continue
    if [ -f /mnt/meta-data ]; then
      whole=$(readlink -f "/sys/class/block/$name/..")
      serial=$(cat "$whole/serial" "$whole/device/serial" 2>/dev/null | head -n 1 | tr -d ' ')
      echo "tiny: config drive on $name, disk $serial"
      sed 's/^/tiny: meta-data: /' /mnt/meta-data
      sed -n 's/^.*\(marker.*\)$/tiny: user-data: \1/p' /mnt/user-data
      umount /mnt
      return 0
    fi
    # The other layout, of OpenStack.
    if [ -f /mnt/openstack/latest/meta_data.json ]; then
      echo "tiny: config-2 drive on $name"
      sed -n 's/^.*\(marker.*\)$/tiny: user-data: \1/p' /mnt/openstack/latest/user_data
      grep -q '"links"' /mnt/openstack/latest/network_data.json && echo 'tiny: network data'
      umount /mnt
      return 0
    fi
    umount /mnt
  done
  return 1
}
tries=0
until look; do
  tries=$((tries + 1))
  if [ $tries -ge 50 ]; then echo 'tiny: no config drive'; break; fi
  sleep 0.2
done
echo 'tiny: done'
while :; do sleep 1000; done
END
chmod 755 initramfs/init
(cd initramfs && find . -mindepth 1 | sort | cpio --quiet -o -H newc | zstd -q -19) > initrd.img

say 'disk'
boot_at=2048 boot_sectors=2048 esp_at=4096
esp_mib=$((($(stat -c %s "$vmlinuz") + $(stat -c %s initrd.img)) / 1048576 + 12))
# FAT32 has at least 65525 clusters.
[ $esp_mib -ge 40 ] || esp_mib=40
esp_sectors=$((esp_mib * 2048))
truncate -s $(((esp_at + esp_sectors) * 512 + 1048576)) "$disk"
sfdisk --quiet "$disk" <<END
label: gpt
start=$boot_at, size=$boot_sectors, type=21686148-6449-6E6F-744E-656564454649, name=bios-boot
start=$esp_at, size=$esp_sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
END
cat > early.cfg <<'END'
search --no-floppy --label --set=root TINYBOOT
serial --unit=0 --speed=115200
terminal_output serial
linux /vmlinuz console=ttyS0,115200 quiet loglevel=4
initrd /initrd.img
boot
END
modules='part_gpt fat normal linux search search_label serial terminal echo'
# shellcheck disable=SC2086
grub-mkimage -O x86_64-efi -o BOOTX64.EFI -c early.cfg -p /boot/grub $modules
# shellcheck disable=SC2086
grub-mkimage -O i386-pc -o core.img -c early.cfg -p /boot/grub $modules biosdisk
# What generators write: read by who starts the disk without the firmware, and by nobody else, as the word at its end shows.
cat > grub.cfg <<'END'
set default="0"
menuentry 'Tiny system' --class os $menuentry_id_option 'tiny' {
	insmod part_gpt
	search --no-floppy --label --set=root TINYBOOT
	linux	/vmlinuz console=ttyS0,115200 quiet loglevel=4 tiny.entry=grub.cfg
	initrd	/initrd.img
}
END
truncate -s ${esp_mib}M esp.img
mkfs.vfat -F 32 -s 1 -n TINYBOOT esp.img > /dev/null
mmd -i esp.img ::/EFI ::/EFI/BOOT
mcopy -i esp.img BOOTX64.EFI ::/EFI/BOOT/
mmd -i esp.img ::/grub
mcopy -i esp.img grub.cfg ::/grub/grub.cfg
mcopy -i esp.img "$vmlinuz" ::/vmlinuz
mcopy -i esp.img initrd.img ::/initrd.img
dd if=esp.img of="$disk" bs=512 seek=$esp_at conv=notrunc,sparse status=none
little() { # NUMBER: as eight bytes, least significant first
  local hex byte
  hex=$(printf '%016x' "$1")
  for byte in 14 12 10 8 6 4 2 0; do printf "\\x${hex:byte:2}"; done
}
poke() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
head -c 440 /usr/lib/grub/i386-pc/boot.img | poke "$disk" 0
little $boot_at | poke "$disk" $((0x5c))
printf '\x90\x90' | poke "$disk" $((0x66))
little $((boot_at + 1)) | poke core.img $((0x1f4))
dd if=core.img of="$disk" bs=512 seek=$boot_at conv=notrunc status=none
mkdir -p "$out"
mv "$disk" "$out/tiny.raw"
cp "$vmlinuz" "$out/vmlinuz"
mv initrd.img "$out/initrd.img"
say "$(stat -c %s "$out/tiny.raw") bytes"
