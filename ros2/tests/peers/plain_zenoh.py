"""`eclipse-zenoh` as the operator of `endplate run --transport zenoh-plain`, with `endplate sim` as its robot: state, command,
instruction, status and switches on plain keys, as ros2/README.md describes them. Ends with 75 where the simulated robot fell
silent for so long that the node deactivated, as it must: the machine was too busy to show anything.

usage: plain_zenoh.py ENDPLATE_BINARY
"""
import json
import os
import socket
import subprocess
import sys
import time

import zenoh
from rosbags.typesys import Stores, get_typestore

from operated_arm import MACHINE_TOO_BUSY, MOVED_RAD, commands, held, states, travel, until

store = get_typestore(Stores.ROS2_JAZZY)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
config = zenoh.Config()
for path, text in [("mode", '"router"'), ("listen/endpoints", f'["{endpoint}"]'),
                   ("scouting/multicast/enabled", "false")]:
    config.insert_json5(path, text)
session = zenoh.open(config)


def on_state(sample):
    message = store.deserialize_cdr(sample.payload.to_bytes(), "sensor_msgs/msg/JointState")
    states.append((time.monotonic(), dict(zip(message.name, message.position))))


def on_command(sample):
    message = store.deserialize_cdr(sample.payload.to_bytes(), "std_msgs/msg/Float64MultiArray")
    commands.append((time.monotonic(), list(message.data)))


subscriptions = [session.declare_subscriber("endplate/joint_states", on_state),
                 session.declare_subscriber("endplate/position_controller/commands", on_command)]


def ask(key, payload=None):
    for reply in session.get(f"endplate/endplate/{key}", payload=payload, timeout=10):
        if reply.ok:
            return json.loads(reply.ok.payload.to_string())
    return None


def start(*words):
    return subprocess.Popen([sys.argv[1], *words, "--transport", "zenoh-plain", "--router", endpoint],
                            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


robot = start("sim")
node = start("run", "--seconds", "90")
try:
    until("joint states", lambda: len(states) > 20)
    until("a status", lambda: ask("status") is not None)
    status = ask("status")
    assert status["state"] == "unconfigured" and "joint_states" in status["parts"], status
    until("cameras", lambda: ask("status")["parts"]["camera/front"]["level"] == "fine")
    held("not enabled")
    assert not commands, "motion without an enable"
    answer = ask("enable", "true")
    assert not answer["success"] and "instruction" in answer["message"], answer
    session.put("endplate/endplate/instruction", "pick up the red cube")
    session.put("endplate/endplate/instruction", b"\xff\xfe")  # no text: counted, nothing else
    assert not ask("enable", "perhaps")["success"]
    until("the enable", lambda: ask("enable", "true")["success"])
    since = time.monotonic()
    until("motion", lambda: travel(since) > MOVED_RAD)
    until("the status", lambda: ask("status")["state"] == "active")
    assert len(commands[0][1]) == 6 and ask("status")["parts"]["commands"]["sent"] != "0"
    moved = travel(since)
    assert ask("enable", "false")["success"]
    until("the end of motion", lambda: ask("status")["state"] == "inactive")
    held("disabled")
    # Without an attachment or a graph a robot that was started anew is told by its silence, or by its session.
    print(f"eclipse-zenoh: told, enabled, moved {moved * 1e3:.0f} mrad on {len(commands)} commands, stopped; "
          f"{len(states)} joint states")
finally:
    silent = False
    for one in (node, robot):
        one.terminate()
        _, said = one.communicate(timeout=20)
        if sys.exc_info()[0]:
            print(said, file=sys.stderr)
            silent |= "no joint state came" in said
    if silent:
        os._exit(MACHINE_TOO_BUSY)
    session.close()
assert node.returncode == 0 and robot.returncode == 0
