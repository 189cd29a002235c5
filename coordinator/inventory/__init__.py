# SPDX-License-Identifier: MIT
"""Plans for machines that one does not have: a file of them instead of workers, data sheets instead of measurements.

`reading` (the file, with `quantities` and the table of `cards`) → `machines` (values) → `estimates` (what the planner
asks of devices and links) → `planning` (the plan). The command line is the caller.
"""

from coordinator.inventory.machines import Inventory, InventoryDevice
from coordinator.inventory.planning import plan_inventory
from coordinator.inventory.reading import parse_inventory, read_inventory

__all__ = ["Inventory", "InventoryDevice", "parse_inventory", "plan_inventory", "read_inventory"]
