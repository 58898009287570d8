#!/bin/bash
# Makes the operating system that virtual servers are given: Debian 12 with cloud-init, containerd, kubelet and kubeadm.
# Nothing is mounted and no loop device is used; it boots by BIOS and by UEFI.
#
#   build.sh WORK OUT KUBELET KUBEADM
#
# WORK is an empty folder for what is in between, OUT a folder that gets node.raw, node.raw.zst and node.qcow2.
# SEED, if set, is a root file system (tar) to begin with instead of making one.
set -euo pipefail
export LC_ALL=C TZ=UTC
work=$1 out=$2 kubelet=$3 kubeadm=$4
suite=bookworm
root=$work/root
disk=$work/node.raw
say() { printf 'node image: %s\n' "$*"; }

packages=systemd,systemd-sysv,systemd-resolved,systemd-timesyncd,dbus,udev,kmod,init,linux-image-cloud-amd64
packages+=,cloud-init,cloud-guest-utils,cloud-initramfs-growroot,netplan.io,containerd,runc,containernetworking-plugins
packages+=,iptables,nftables,conntrack,ethtool,socat,iproute2,iputils-ping,curl,ca-certificates,openssh-server,e2fsprogs
packages+=,util-linux,mount,login,passwd,procps,initramfs-tools

# The mirrors of this machine, if it is Debian; else Debian's own.
mirror() { # PATTERN DEFAULT
  { grep -rhoE "https?://[^ ]*/$1/?" /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null || true; } |
    grep -v snapshot | sort -u | head -n 1 | sed "s|^\$|$2|" | { read -r line || true; echo "${line:-$2}"; }
}
main=$(mirror debian http://deb.debian.org/debian)
security=$(mirror debian-security http://security.debian.org/debian-security)

tar=${SEED:-$work/root.tar}
if [ ! -f "$tar" ]; then
  say "packages of Debian $suite from $main"
  mmdebstrap --quiet --variant=minbase --mode=root --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --include="$packages" "$suite" "$tar" \
    "deb $main $suite main" "deb $main $suite-updates main" "deb $security $suite-security main"
fi
mkdir "$root"
tar -C "$root" -xf "$tar" --numeric-owner --exclude='./dev/*'

say 'configuration, kubelet, kubeadm'
put() { # PATH: standard input becomes the file
  mkdir -p "$root$(dirname "$1")"
  cat > "$root$1"
}
install -m 755 "$kubelet" "$kubeadm" "$root/usr/bin/"
put /etc/systemd/system/kubelet.service <<'END'
[Unit]
Description=kubelet: the Kubernetes node agent
Wants=network-online.target
After=containerd.service network-online.target
# Until kubeadm has written its configuration there is nothing to run.
ConditionPathExists=/var/lib/kubelet/config.yaml

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
END
put /etc/systemd/system/kubelet.service.d/10-kubeadm.conf <<'END'
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS
END
put /etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
END
put /etc/cni/net.d/10-bridge.conflist <<'END'
{
  "cniVersion": "1.0.0",
  "name": "bridge",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
printf 'overlay\nbr_netfilter\n' | put /etc/modules-load.d/kubernetes.conf
put /etc/sysctl.d/90-kubernetes.conf <<'END'
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
END
printf 'LABEL=noderoot / ext4 errors=remount-ro 0 1\n' | put /etc/fstab
# Each stage of cloud-init costs seconds on an emulated processor: only what is needed.
put /etc/cloud/cloud.cfg.d/90-lab.cfg <<'END'
datasource_list: [NoCloud, ConfigDrive, None]
ssh_genkeytypes: [ed25519]
locale: false
cloud_init_modules: [bootcmd, write-files, growpart, resizefs, disk_setup, mounts, set_hostname, update_hostname, update_etc_hosts, ca-certs, users-groups, ssh]
cloud_config_modules: [set-passwords, ntp, timezone, runcmd]
cloud_final_modules: [write-files-deferred, scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user, final-message, power-state-change]
END
# Waiting for router advertisements that nobody sends would cost 13 seconds. What netplan writes is overridden by name.
for port in eth0 eth1; do
  printf '[Network]\nIPv6AcceptRA=no\n' | put /etc/systemd/network/10-netplan-$port.network.d/no-advertisements.conf
done
put /etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf <<'END'
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=60
END
systemctl --quiet --root="$root" enable containerd.service kubelet.service systemd-networkd.service systemd-resolved.service
systemctl --quiet --root="$root" mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer dpkg-db-backup.timer
: > "$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/opt/cni"
[ -e "$root/opt/cni/bin" ] || ln -s /usr/lib/cni "$root/opt/cni/bin"

say 'disk'
uuid=$(cat /proc/sys/kernel/random/uuid)
boot_at=2048 boot_sectors=2048
esp_at=4096 esp_sectors=$((64 * 2048))
root_at=$((esp_at + esp_sectors)) root_mib=1536
put /boot/grub/grub.cfg <<'END'
set timeout=0
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
linux /vmlinuz root=LABEL=noderoot ro console=tty0 console=ttyS0,115200 net.ifnames=0 quiet loglevel=4
initrd /initrd.img
boot
END
truncate -s $((root_at * 512 + root_mib * 1048576 + 1048576)) "$disk"
sfdisk --quiet "$disk" <<END
label: gpt
start=$boot_at, size=$boot_sectors, type=21686148-6449-6E6F-744E-656564454649, name=bios-boot
start=$esp_at, size=$esp_sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start=$root_at, size=$((root_mib * 2048)), type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
END
mkfs.ext4 -q -F -L noderoot -U "$uuid" -d "$root" -m 0 -O ^metadata_csum_seed \
  -E "offset=$((root_at * 512)),lazy_itable_init=1" "$disk" ${root_mib}M 2>/dev/null

# GRUB both ways, from one early configuration.
cat > "$work/early.cfg" <<END
search --no-floppy --fs-uuid --set=root $uuid
set prefix=(\$root)/boot/grub
configfile (\$root)/boot/grub/grub.cfg
END
modules='part_gpt ext2 normal linux configfile search search_fs_uuid serial terminal echo test minicmd fat all_video gzio'
# shellcheck disable=SC2086
grub-mkimage -O x86_64-efi -o "$work/BOOTX64.EFI" -c "$work/early.cfg" -p /boot/grub $modules
# shellcheck disable=SC2086
grub-mkimage -O i386-pc -o "$work/core.img" -c "$work/early.cfg" -p /boot/grub $modules biosdisk
mkfs.vfat -F 32 -s 1 -n ESP --offset $esp_at "$disk" $((esp_sectors / 2)) > /dev/null
mmd -i "$disk@@$((esp_at * 512))" ::/EFI ::/EFI/BOOT
mcopy -i "$disk@@$((esp_at * 512))" "$work/BOOTX64.EFI" ::/EFI/BOOT/
little() { # NUMBER: as eight bytes, least significant first
  local hex byte
  hex=$(printf '%016x' "$1")
  for byte in 14 12 10 8 6 4 2 0; do printf "\\x${hex:byte:2}"; done
}
poke() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
head -c 440 /usr/lib/grub/i386-pc/boot.img | poke "$disk" 0
little $boot_at | poke "$disk" $((0x5c))
printf '\x90\x90' | poke "$disk" $((0x66))
little $((boot_at + 1)) | poke "$work/core.img" $((0x1f4))
dd if="$work/core.img" of="$disk" bs=512 seek=$boot_at conv=notrunc status=none

say 'compressed forms'
mkdir -p "$out"
zstd -q -f -T0 -3 "$disk" -o "$out/node.raw.zst"
qemu-img convert -q -O qcow2 -c -o compression_type=zstd "$disk" "$out/node.qcow2"
mv "$disk" "$out/node.raw"
rm -rf "$root"
say "$(stat -c %s "$out/node.raw") bytes raw, $(stat -c %s "$out/node.raw.zst") with zstd, $(stat -c %s "$out/node.qcow2") as qcow2"
