"""`eclipse-zenoh` as the operator of `endplate run --transport zenoh-plain`, with `endplate sim` as its robot: state, command,
instruction, status and switches on plain keys, as ros2/README.md describes them.

usage: plain_zenoh.py ENDPLATE_BINARY
"""
import json
import socket
import subprocess
import sys
import time

import zenoh
from rosbags.typesys import Stores, get_typestore

store = get_typestore(Stores.ROS2_JAZZY)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
config = zenoh.Config()
for path, text in [("mode", '"router"'), ("listen/endpoints", f'["{endpoint}"]'),
                   ("scouting/multicast/enabled", "false")]:
    config.insert_json5(path, text)
session = zenoh.open(config)
states, commands = [], []


def on_state(sample):
    message = store.deserialize_cdr(sample.payload.to_bytes(), "sensor_msgs/msg/JointState")
    states.append((time.monotonic(), dict(zip(message.name, message.position))))


def on_command(sample):
    message = store.deserialize_cdr(sample.payload.to_bytes(), "std_msgs/msg/Float64MultiArray")
    commands.append((time.monotonic(), list(message.data)))


held = [session.declare_subscriber("endplate/joint_states", on_state),
        session.declare_subscriber("endplate/position_controller/commands", on_command)]


def until(what, happened, seconds=30):
    deadline = time.time() + seconds
    while not happened():
        assert time.time() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def ask(key, payload=None):
    for reply in session.get(f"endplate/endplate/{key}", payload=payload, timeout=10):
        if reply.ok:
            return json.loads(reply.ok.payload.to_string())
    return None


def travel(since):
    seen = [position for at, position in list(states) if at >= since]
    return max(max(one[joint] for one in seen) - min(one[joint] for one in seen) for joint in seen[0]) if seen else 0.0


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
    since = time.monotonic()
    time.sleep(1)
    assert travel(since) < 2e-3 and not commands, "motion without an enable"
    answer = ask("enable", "true")
    assert not answer["success"] and "instruction" in answer["message"], answer
    session.put("endplate/endplate/instruction", "pick up the red cube")
    session.put("endplate/endplate/instruction", b"\xff\xfe")  # no text: counted, nothing else
    assert not ask("enable", "perhaps")["success"]
    until("the enable", lambda: ask("enable", "true")["success"])
    since = time.monotonic()
    until("motion", lambda: travel(since) > 0.02)
    until("the status", lambda: ask("status")["state"] == "active")
    assert len(commands[0][1]) == 6 and ask("status")["parts"]["commands"]["sent"] != "0"
    moved = travel(since)
    assert ask("enable", "false")["success"]
    until("the end of motion", lambda: ask("status")["state"] == "inactive")
    time.sleep(0.5)
    since = time.monotonic()
    time.sleep(1)
    assert travel(since) < 2e-3 and not [at for at, _ in commands if at > since]
    # Without an attachment or a graph a robot that was started anew is told by its silence, or by its session.
    print(f"eclipse-zenoh: told, enabled, moved {moved * 1e3:.0f} mrad on {len(commands)} commands, stopped; "
          f"{len(states)} joint states")
finally:
    for one in (node, robot):
        one.terminate()
        _, said = one.communicate(timeout=20)
        if sys.exc_info()[0]:
            print(said, file=sys.stderr)
    session.close()
assert node.returncode == 0 and robot.returncode == 0
