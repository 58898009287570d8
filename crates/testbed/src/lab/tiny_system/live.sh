#!/bin/bash
# Makes a live ISO (UEFI) of the tiny system's kernel and initramfs. The kernel prints its command line to the serial port,
# and in it tiny.live; the init then looks for a config drive, only reading.
#
#   live.sh WORK OUT TINY.RAW
set -euo pipefail
export LC_ALL=C TZ=UTC
work=$1 out=$2 disk=$3
cd "$work"
mkdir -p live/EFI "$out"
# Where the disk's ESP begins.
esp=$(sfdisk --dump "$disk" | sed -n 's/.*start= *\([0-9]*\),.*name="esp".*/\1/p')
mcopy -i "$disk@@$((esp * 512))" ::/vmlinuz ::/initrd.img live/
# GRUB came from the medium, and that is where the rest is.
cat > live.cfg <<'END'
serial --unit=0 --speed=115200
terminal_output serial
linux ($root)/vmlinuz console=ttyS0,115200 tiny.live
initrd ($root)/initrd.img
boot
END
grub-mkimage -O x86_64-efi -o LIVEX64.EFI -c live.cfg -p /boot/grub iso9660 normal linux serial terminal echo
truncate -s 4M live/EFI/efi.img
mkfs.vfat -F 12 -n TINYLIVE live/EFI/efi.img > /dev/null
mmd -i live/EFI/efi.img ::/EFI ::/EFI/BOOT
mcopy -i live/EFI/efi.img LIVEX64.EFI ::/EFI/BOOT/BOOTX64.EFI
xorriso -as mkisofs -quiet -r -V TINYLIVE -o "$out/tiny.iso" -c EFI/boot.cat -e EFI/efi.img -no-emul-boot live
