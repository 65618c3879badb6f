"""LeRobot's FeetechMotorsBus against a bus: python lerobot_bus.py PATH (a Python with lerobot[feetech])"""
import sys
import time

from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.motors.motors_bus import Motor, MotorCalibration, MotorNormMode

NAMES = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
modes = {name: MotorNormMode.DEGREES for name in NAMES} | {"gripper": MotorNormMode.RANGE_0_100}
bus = FeetechMotorsBus(sys.argv[1], {name: Motor(n + 1, "sts3215", modes[name]) for n, name in enumerate(NAMES)})
bus.connect()
assert bus.broadcast_ping() == {n: 777 for n in range(1, 7)}
bus.disable_torque()
bus.configure_motors()
homings = bus.set_half_turn_homings()
assert set(bus.sync_read("Present_Position", normalize=False).values()) == {2047}, homings
calibration = {
    name: MotorCalibration(id=n + 1, drive_mode=0, homing_offset=homings[name], range_min=800, range_max=3300)
    for n, name in enumerate(NAMES)
}
bus.write_calibration(calibration)
assert bus.is_calibrated and bus.read_calibration() == calibration
bus.enable_torque()
goals = dict(zip(NAMES, [15.0, -10.0, 20.0, 0.0, 5.0, 50.0]))
bus.sync_write("Goal_Position", goals)
time.sleep(0.7)
reached = bus.sync_read("Present_Position")
assert all(abs(reached[name] - goals[name]) < 0.2 for name in NAMES), reached
times = []
for _ in range(200):
    start = time.perf_counter()
    bus.sync_read("Present_Position")
    times.append(time.perf_counter() - start)
times.sort()
bus.disconnect()
print(f"LeRobot FeetechMotorsBus: all as expected; sync read p50 {times[100] * 1e3:.2f} p99 {times[197] * 1e3:.2f} ms")
