"""rustypot's Python binding (PyPI rustypot) against both makes: python rustypot_bus.py feetech|dynamixel PATH"""
import sys
import time

import rustypot

make, path = sys.argv[1:]
kind = rustypot.Sts3215PyController if make == "feetech" else rustypot.Xl330PyController
bus = kind(path, 1_000_000, 0.2)
ids = list(range(1, 7))
assert all(bus.ping(servo) for servo in ids) and not bus.ping(7)
bus.sync_write_torque_enable(ids, [True] * 6)
goals = [0.05 * servo for servo in ids]
bus.sync_write_goal_position(ids, goals)
time.sleep(0.4)
reached = bus.sync_read_present_position(ids)
assert all(abs(a - b) < 0.003 for a, b in zip(reached, goals)), reached
bus.sync_write_torque_enable(ids, [False] * 6)
print(f"rustypot on {make}: all as expected")
