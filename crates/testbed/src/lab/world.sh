#!/bin/sh
# The first process of a lab: makes a network and folders that only this lab sees, then runs the rest of its command line.
# It is started in new network, mount and process namespaces; all that is done here goes with them.
#
#   world.sh FOLDER COMMAND…
set -eu
folder=$1
shift
# What is listed under /sys/class/net must be this namespace's.
umount -l /sys 2>/dev/null || true
mount -t sysfs sysfs /sys
ip link set lo up
# A fixed address: a bridge otherwise takes that of its lowest port, and neighbours remember the old one.
ip link add lab0 address 52:54:00:fe:00:01 type bridge forward_delay 0
ip address add 10.77.0.1/24 dev lab0
ip link set lab0 up
# To nowhere: an apiserver on a loopback address asks the routes which address it should advertise.
ip route add default via 10.77.0.254 dev lab0
# libvirt's own folders, so that one that runs on this machine already is not disturbed.
for name in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt run/libvirt; do
  mkdir -p "$folder/host/$name" "/$name"
  mount --bind "$folder/host/$name" "/$name"
done
cat > /etc/libvirt/qemu.conf <<'END'
# The node of KVM is hidden below, which libvirt's own mount namespaces cannot do with.
namespaces = []
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
stdio_handler = "file"
END
cat > /etc/libvirt/libvirtd.conf <<'END'
auth_unix_ro = "none"
auth_unix_rw = "none"
END
# libvirt holds what it knows of QEMU for outdated while that has no KVM and the node could be opened, and asks QEMU anew
# at every define; where KVM is there and hangs, each time takes 80 seconds. Root may open what no mode allows, but
# nobody may write to a read-only mount.
if [ -e /dev/kvm ]; then
  : > "$folder/no-kvm"
  mount --bind "$folder/no-kvm" /dev/kvm
  mount -o remount,bind,ro /dev/kvm
fi
# Not exec: the first process has to stay, and to take leave of those that lost their parent.
code=0
"$@" || code=$?
exit $code
