"""Drives one simulated BMC with sushy: python sushy_client.py CA_FILE FACTS_JSON."""
import json
import sys
import time

import sushy
from sushy import auth, exceptions

ca, facts = sys.argv[1], json.loads(sys.argv[2])
SYSTEM = "/redfish/v1/Systems/1"


def connect(password, kind=auth.SessionOrBasicAuth):
    return sushy.Sushy(facts["bmcUrl"], verify=ca, auth=kind(facts["username"], password))


def wait(what, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


for kind in (auth.SessionAuth, auth.BasicAuth):
    try:
        connect("wrong", kind).get_system(SYSTEM)
        raise SystemExit(f"a wrong password was accepted by {kind.__name__}")
    except exceptions.AccessError:
        pass
try:
    sushy.Sushy(facts["bmcUrl"], username=facts["username"], password=facts["password"]).get_system(SYSTEM)
    raise SystemExit("a certificate of an unknown authority was accepted")
except exceptions.ConnectionError:
    pass

root = connect(facts["password"])
assert connect(facts["password"], auth.BasicAuth).get_system(SYSTEM).uuid == facts["uuid"]
assert len(root.get_system_collection().get_members()) == 1
system = root.get_system(SYSTEM)
assert system.uuid == facts["uuid"] and system.serial_number == facts["serial"]
assert system.memory_summary.size_gib == 64, system.memory_summary
assert system.processors.summary.count == 32, system.processors.summary
assert system.power_state == sushy.PowerState.OFF
macs = sorted(nic.mac_address for nic in system.ethernet_interfaces.get_members())
assert macs == sorted(nic["mac"] for nic in facts["nics"]), macs
drives = [drive for storage in system.storage.get_members() for drive in storage.drives]
assert [(d.capacity_bytes, d.serial_number) for d in drives] == [
    (disk["sizeBytes"], disk["serial"]) for disk in facts["disks"]
]
assert system.managers[0].firmware_version == "1.0.0"
assert root.get_chassis_collection().get_members()[0].serial_number == facts["serial"]

assert sushy.BootSource.UEFI_HTTP in system.get_allowed_system_boot_source_values()
system.set_system_boot_options(
    target=sushy.BootSource.UEFI_HTTP,
    enabled=sushy.BootSourceOverrideEnabled.ONCE,
    mode=sushy.BootSourceOverrideMode.UEFI,
    http_boot_uri="http://127.0.0.1:1/none",
)
system.refresh(force=True)
assert system.boot.target == sushy.BootSource.UEFI_HTTP
assert system.boot.enabled == sushy.BootSourceOverrideEnabled.ONCE
assert system.boot.http_boot_uri == "http://127.0.0.1:1/none", system.boot.http_boot_uri

assert sushy.ResetType.ON in system.get_allowed_reset_system_values()
system.reset_system(sushy.ResetType.ON)
wait("the power comes on", lambda: system.refresh(force=True) or system.power_state == sushy.PowerState.ON)
wait(
    "the override is used up",
    lambda: system.refresh(force=True) or system.boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED,
)
# The address answers nothing: the firmware gives up on it, and the empty disk is next.
wait(
    "the firmware is done",
    lambda: system.refresh(force=True)
    or system.boot_progress.last_state == sushy.BootProgressStates.HARDWARE_COMPLETE,
)

media = root.get_manager("/redfish/v1/Managers/1").virtual_media.get_members()[0]
assert not media.inserted
media.insert_media("http://127.0.0.1:1/agent.iso", write_protected=True)
media.refresh(force=True)
assert media.inserted and media.image == "http://127.0.0.1:1/agent.iso"
media.eject_media()
media.refresh(force=True)
assert not media.inserted and not media.image

system.reset_system(sushy.ResetType.FORCE_OFF)
wait("the power goes off", lambda: system.refresh(force=True) or system.power_state == sushy.PowerState.OFF)
try:
    system.reset_system(sushy.ResetType.FORCE_RESTART)
    raise SystemExit("a restart of a server that is off was accepted")
except exceptions.HTTPError:
    pass
print("all steps passed")
