"""`eclipse-zenoh` as router and robot against the example node: round trips, images at 30 Hz, a service, the graph.

usage: zenoh_peers.py ECHO_NODE_BINARY [ROUND_TRIPS]
"""
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import zenoh
from rosbags.typesys import Stores, get_typestore

binary, rounds, domain = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000, 7
store = get_typestore(Stores.ROS2_JAZZY)
T = store.types
HASH = {
    "sensor_msgs::msg::dds_::JointState_": "a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e",
    "std_msgs::msg::dds_::Float64MultiArray_": "1025ddc6b9552d191f89ef1a8d2f60f3d373e28b283d8891ddcc974e8c55397f",
    "sensor_msgs::msg::dds_::Image_": "d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
    "std_srvs::srv::dds_::Trigger_": "eeff2cd6fa5ad9d27cdf4dec64818317839b62f212a91e6b5304b634b2062c5f",
}
key = lambda topic, kind: f"{domain}/{topic}/{kind}/RIHS01_{HASH[kind]}"  # noqa: E731
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
config = zenoh.Config()
for path, text in [("mode", '"router"'), ("listen/endpoints", f'["{endpoint}"]'),
                   ("scouting/multicast/enabled", "false")]:
    config.insert_json5(path, text)
session = zenoh.open(config)
sequence = 0


def attachment():
    global sequence
    sequence += 1
    return struct.pack("<qqB16s", sequence, time.time_ns(), 16, bytes(range(16)))


arrived = {}
answer_attachments = []


def on_command(sample):
    data = store.deserialize_cdr(sample.payload.to_bytes(), "std_msgs/msg/Float64MultiArray").data
    arrived[round(data[0] / 2)] = time.perf_counter()
    answer_attachments.append(sample.attachment.to_bytes())


subscriber = session.declare_subscriber(
    key("position_controller/commands", "std_msgs::msg::dds_::Float64MultiArray_"), on_command)
states = session.declare_publisher(key("joint_states", "sensor_msgs::msg::dds_::JointState_"))
images = session.declare_publisher(key("camera/image_raw", "sensor_msgs::msg::dds_::Image_"),
                                   congestion_control=zenoh.CongestionControl.BLOCK)
node = subprocess.Popen([binary, f"zenoh:{endpoint}", str(domain)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
Header, Time = T["std_msgs/msg/Header"], T["builtin_interfaces/msg/Time"]
try:
    deadline, tokens = time.time() + 30, []
    while len(tokens) < 5 and time.time() < deadline:
        tokens = [str(reply.ok.key_expr) for reply in session.liveliness().get(f"@ros2_lv/{domain}/**") if reply.ok]
        time.sleep(0.1)
    kinds = sorted(token.split("/")[5] for token in tokens)
    assert kinds == ["MP", "MS", "MS", "NN", "SS"], tokens
    time.sleep(0.5)
    sent = {}
    for number in range(rounds):
        message = T["sensor_msgs/msg/JointState"](
            Header(Time(number, 0), "b"), [f"j{i}" for i in range(7)],
            np.array([number] + [0.1] * 6, np.float64), np.zeros(7), np.array([], np.float64))
        data = bytes(store.serialize_cdr(message, "sensor_msgs/msg/JointState"))
        sent[number] = time.perf_counter()
        states.put(data, attachment=attachment())
        time.sleep(0.001)
    time.sleep(1)
    lost = [number for number in sent if number not in arrived]
    trip = sorted((arrived[number] - sent[number]) * 1e6 for number in sent if number in arrived)
    assert not lost, f"{len(lost)} of {rounds} lost, first {lost[:5]}"
    numbers = [struct.unpack("<q", data[:8])[0] for data in answer_attachments]
    assert numbers == list(range(numbers[0], numbers[0] + rounds)), "sequence numbers without a gap"
    print(f"eclipse-zenoh: {rounds} of {rounds} round trips, "
          f"p50 {trip[len(trip) // 2]:.0f} us, p99 {trip[int(len(trip) * .99)]:.0f} us")
    picture = np.zeros(640 * 480 * 3, np.uint8)
    for number in range(90):
        message = T["sensor_msgs/msg/Image"](Header(Time(number, 1), "cam"), 480, 640, "rgb8", 0, 1920, picture)
        images.put(bytes(store.serialize_cdr(message, "sensor_msgs/msg/Image")), attachment=attachment())
        time.sleep(1 / 30)
    reply = next(iter(session.get(key("policy/estop", "std_srvs::srv::dds_::Trigger_"), timeout=10,
                                  payload=bytes([0, 1, 0, 0, 0]), attachment=attachment())))
    assert reply.ok.payload.to_bytes().hex().startswith("00010000010000000800000073746f7070656400")
    back = reply.ok.attachment.to_bytes()
    assert struct.unpack("<q", back[:8])[0] == sequence and back[17:] == bytes(range(16)), "the requester's own"
    print("eclipse-zenoh: the service answered with the requester's number and identity")
finally:
    out, _ = node.communicate(timeout=20)
    session.close()
counts = dict(line.split() for line in out.strip().split("\n"))
assert counts["images"] == "90" and counts["malformed"] == "0", counts
print("eclipse-zenoh: 90 of 90 images of 640x480 at 30 Hz")
