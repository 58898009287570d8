# A switch port that takes a VLAN apart from the rest: frames of the VLAN on trunk0 are those without a tag on access0. The
# kernel's own VLANs are not there everywhere.
#
#   vlan.py ID
import fcntl, os, select, struct, sys

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


def tap(name):
    file = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
    return file


def send(file, frame):
    try:
        os.write(file, frame)
    except OSError as error:
        # An interface that is not up yet loses frames, as a cable does.
        print(error, flush=True)


vlan = int(sys.argv[1])
trunk, access = tap("trunk0"), tap("access0")
while True:
    ready, _, _ = select.select([trunk, access], [], [])
    if trunk in ready:
        frame = os.read(trunk, 65536)
        kind, tag = struct.unpack_from("!HH", frame, 12)
        if kind == 0x8100 and tag & 0xFFF == vlan:
            send(access, frame[:12] + frame[16:])
    if access in ready:
        frame = os.read(access, 65536)
        send(trunk, frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:])
