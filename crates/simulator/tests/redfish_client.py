"""Drives one simulated BMC by `redfish` and `redfish_utilities`, the Redfish client and tools of the DMTF.

Arguments: the CA certificate, the facts of the server as JSON.
"""

import json
import sys
import time

import redfish
import redfish_utilities as tools

ca, facts = sys.argv[1], json.loads(sys.argv[2])
user, password = facts["username"], facts["password"]

try:
    redfish.redfish_client(base_url=facts["bmcUrl"], username=user, password="wrong", cafile=ca).login(auth="session")
    raise SystemExit("a wrong password was accepted")
except redfish.rest.v1.InvalidCredentialsError:
    pass

client = redfish.redfish_client(base_url=facts["bmcUrl"], username=user, password=password, cafile=ca)
client.login(auth="session")


def wait(what, condition):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("waited too long: " + what)
        time.sleep(0.05)


def power():
    return tools.get_system(client).dict["PowerState"]


assert tools.get_system_ids(client) == ["1"], tools.get_system_ids(client)
system = tools.get_system(client).dict
assert system["UUID"].lower() == facts["uuid"] and system["SerialNumber"] == facts["serial"], system
assert power() == "Off"

_, resets = tools.get_system_reset_info(client)
allowed = next(it["AllowableValues"] for it in resets if it["Name"] == "ResetType")
assert {"On", "ForceOff", "ForceRestart"} <= set(allowed), resets

tools.set_system_boot(client, ov_target="Pxe", ov_enabled="Once", ov_mode="UEFI")
boot = tools.get_system_boot(client)
assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("Pxe", "Once"), boot
assert "UefiHttp" in boot["BootSourceOverrideTarget@Redfish.AllowableValues"], boot

tools.insert_virtual_media(client, "http://127.0.0.1:1/agent.iso", inserted=True, write_protected=True)
media = tools.get_virtual_media(client)
held = [it for it in media if it["Inserted"]]
assert len(held) == 1 and held[0]["Image"] == "http://127.0.0.1:1/agent.iso", media
tools.eject_virtual_media(client, held[0]["Id"])
assert not any(it["Inserted"] for it in tools.get_virtual_media(client))

response = tools.system_reset(client, reset_type="On")
assert response.status in (200, 202, 204), response
wait("the power comes on", lambda: power() == "On")
tools.system_reset(client, reset_type="ForceOff")
wait("the power goes off", lambda: power() == "Off")

inventory = tools.get_system_inventory(client)
serials = {part["SerialNumber"] for chassis in inventory for parts in chassis.values() if isinstance(parts, list) for part in parts}
assert facts["serial"] in serials, inventory

client.logout()
print("all steps passed")
