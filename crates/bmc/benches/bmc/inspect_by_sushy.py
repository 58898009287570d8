"""Inspects a BMC by sushy and prints how many milliseconds that took: python inspect_by_sushy.py URL."""

import logging
import sys
import time

import sushy

logging.disable(logging.CRITICAL)
begun = time.monotonic()
root = sushy.Sushy(sys.argv[1], username="admin", password="secret")
system = root.get_system_collection().get_members()[0]
facts = [system.uuid, system.serial_number, system.manufacturer, system.model, system.memory_summary, system.power_state]
facts += [system.processors.summary]
facts += [(nic.mac_address, nic.speed_mbps) for nic in system.ethernet_interfaces.get_members()]
try:
    for storage in system.storage.get_members():
        facts += [(drive.capacity_bytes, drive.serial_number, drive.model) for drive in storage.drives]
except sushy.exceptions.SushyError:
    # Not in every tree.
    pass
print((time.monotonic() - begun) * 1000)
