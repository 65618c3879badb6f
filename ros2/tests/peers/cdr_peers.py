"""Our bytes against independent ROS 2 readers and writers, and theirs against ours.

usage: cdr_peers.py RECODE_BINARY      (rosbags, pycdr2, mcap-ros2-support; rclpy too where it is installed)

Each message is written by rosbags, re-encoded by the binary, and must come back equal to every reader.
"""
import importlib
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from rosbags.typesys import Stores, get_typestore

binary = sys.argv[1]
store = get_typestore(Stores.ROS2_JAZZY)
T = store.types
f64 = lambda *values: np.array(values, dtype=np.float64)  # noqa: E731
Time, Header = T["builtin_interfaces/msg/Time"], T["std_msgs/msg/Header"]
header = Header(Time(1_700_000_000, 123_456_789), "base_link")
Dim, Layout = T["std_msgs/msg/MultiArrayDimension"], T["std_msgs/msg/MultiArrayLayout"]
Point, Span = T["trajectory_msgs/msg/JointTrajectoryPoint"], T["builtin_interfaces/msg/Duration"]
KeyValue, Status = T["diagnostic_msgs/msg/KeyValue"], T["diagnostic_msgs/msg/DiagnosticStatus"]
State, Transition = T["lifecycle_msgs/msg/State"], T["lifecycle_msgs/msg/Transition"]
Value, Parameter = T["rcl_interfaces/msg/ParameterValue"], T["rcl_interfaces/msg/Parameter"]
value = Value(9, True, -5, 2.5, "text", np.array([1, 2], np.uint8), np.array([True, False]), np.array([-1], np.int64),
              f64(0.5), ["a", "bc", ""])
messages = {
    "std_msgs/msg/String": T["std_msgs/msg/String"]("pick up the red cube"),
    "rosgraph_msgs/msg/Clock": T["rosgraph_msgs/msg/Clock"](Time(3, 4)),
    "sensor_msgs/msg/JointState": T["sensor_msgs/msg/JointState"](
        header, ["j1", "joint_two", "j3"], f64(1, -2.5, 3.25), f64(0.1, 0.2, 0.3), f64()),
    "sensor_msgs/msg/Image": T["sensor_msgs/msg/Image"](
        header, 2, 3, "rgb8", 0, 9, np.arange(18, dtype=np.uint8)),
    "sensor_msgs/msg/CompressedImage": T["sensor_msgs/msg/CompressedImage"](
        header, "jpeg", np.arange(5, dtype=np.uint8)),
    "sensor_msgs/msg/CameraInfo": T["sensor_msgs/msg/CameraInfo"](
        header, 480, 640, "plumb_bob", f64(0.1, 0.2, 0, 0, 0), f64(*range(9)), f64(*range(9)), f64(*range(12)), 1, 2,
        T["sensor_msgs/msg/RegionOfInterest"](1, 2, 3, 4, True)),
    "std_msgs/msg/Float64MultiArray": T["std_msgs/msg/Float64MultiArray"](
        Layout([Dim("joints", 3, 3)], 0), f64(1, 2, 3)),
    "trajectory_msgs/msg/JointTrajectory": T["trajectory_msgs/msg/JointTrajectory"](
        header, ["j1", "j2"], [Point(f64(0.5, 1), f64(), f64(), f64(), Span(0, 20_000_000)),
                               Point(f64(0.6, 1.1), f64(0, 0), f64(), f64(), Span(1, 40))]),
    "diagnostic_msgs/msg/DiagnosticArray": T["diagnostic_msgs/msg/DiagnosticArray"](
        header, [Status(1, "policy: loop", "deadline missed", "arm0", [KeyValue("misses", "3")])]),
    "rcl_interfaces/msg/Log": T["rcl_interfaces/msg/Log"](Time(1, 2), 30, "n", "m", "f", "g", 7),
    "lifecycle_msgs/msg/TransitionEvent": T["lifecycle_msgs/msg/TransitionEvent"](
        5, Transition(3, "activate"), State(2, "inactive"), State(3, "active")),
    "rcl_interfaces/msg/ParameterEvent": T["rcl_interfaces/msg/ParameterEvent"](
        Time(1, 2), "/policy", [Parameter("a", value)], [], [Parameter("b", value)]),
}


def equal(a, b):
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__ if name != "__msgtype__")
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


lines = [f"{name} {bytes(store.serialize_cdr(message, name)).hex()}" for name, message in messages.items()]
answers = subprocess.run([binary], input="\n".join(lines) + "\n", text=True, capture_output=True, check=True)
ours = dict(zip(messages, answers.stdout.split("\n")))
same = 0
for (name, message), line in zip(messages.items(), lines):
    assert not ours[name].startswith("error"), (name, ours[name])
    assert equal(store.deserialize_cdr(bytes.fromhex(ours[name]), name), message), name
    same += ours[name] == line.split()[1]
print(f"rosbags: {len(messages)} messages read and written both ways, {same} byte for byte")

import pycdr2  # noqa: E402
from pycdr2 import types as t  # noqa: E402


@dataclass
class PTime(pycdr2.IdlStruct, typename="Time"):
    sec: t.int32
    nanosec: t.uint32


@dataclass
class PHeader(pycdr2.IdlStruct, typename="Header"):
    stamp: PTime
    frame_id: str


@dataclass
class PJointState(pycdr2.IdlStruct, typename="JointState"):
    header: PHeader
    name: t.sequence[str]
    position: t.sequence[t.float64]
    velocity: t.sequence[t.float64]
    effort: t.sequence[t.float64]


bytes_of_ours = bytes.fromhex(ours["sensor_msgs/msg/JointState"])
theirs = PJointState.deserialize(bytes_of_ours)
assert theirs.name == ["j1", "joint_two", "j3"] and theirs.position == [1, -2.5, 3.25], theirs
assert theirs.serialize() == bytes_of_ours
print("pycdr2: the joint state read and written byte for byte")

from mcap_ros2._dynamic import generate_dynamic  # noqa: E402

definition, _ = store.generate_msgdef("sensor_msgs/msg/JointState", ros_version=2)
read = generate_dynamic("sensor_msgs/msg/JointState", definition)["sensor_msgs/msg/JointState"](bytes_of_ours)
assert list(read.position) == [1, -2.5, 3.25] and read.header.frame_id == "base_link"
print("mcap-ros2-support: the joint state read")

try:
    from rclpy.serialization import deserialize_message, serialize_message
except ImportError as error:
    print(f"rclpy: SKIPPED, not installed ({error})")
else:
    for name, hexadecimal in list(ours.items())[:len(messages)]:
        package, _, plain = name.split("/")
        kind = getattr(importlib.import_module(f"{package}.msg"), plain)
        message = deserialize_message(bytes.fromhex(hexadecimal), kind)
        again = subprocess.run([binary], input=f"{name} {serialize_message(message).hex()}\n", text=True,
                               capture_output=True, check=True).stdout.strip()
        assert deserialize_message(bytes.fromhex(again), kind) == message, name
    print(f"rclpy (Fast CDR): {len(messages)} messages read and written both ways")
