"""Eclipse Cyclone DDS as the robot against the example node: round trips, images at 30 Hz, a service as rmw_cyclonedds
has it.

usage: dds_cyclone.py ECHO_NODE_BINARY [ROUND_TRIPS]
"""
import os
import subprocess
import sys
import time
from dataclasses import dataclass

os.environ["CYCLONEDDS_URI"] = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>"
    '<Peers><Peer Address="127.0.0.1"/></Peers><MaxAutoParticipantIndex>20</MaxAutoParticipantIndex>'
    "</Discovery></Domain></CycloneDDS>")

import cyclonedds.idl.types as t  # noqa: E402
from cyclonedds.core import Policy, Qos  # noqa: E402
from cyclonedds.domain import DomainParticipant  # noqa: E402
from cyclonedds.idl import IdlStruct  # noqa: E402
from cyclonedds.pub import DataWriter  # noqa: E402
from cyclonedds.sub import DataReader  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402
from cyclonedds.util import duration  # noqa: E402


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: t.int32
    nanosec: t.uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    header: Header
    name: t.sequence[str]
    position: t.sequence[t.float64]
    velocity: t.sequence[t.float64]
    effort: t.sequence[t.float64]


@dataclass
class Dimension(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayDimension_"):
    label: str
    size: t.uint32
    stride: t.uint32


@dataclass
class Layout(IdlStruct, typename="std_msgs::msg::dds_::MultiArrayLayout_"):
    dim: t.sequence[Dimension]
    data_offset: t.uint32


@dataclass
class Floats(IdlStruct, typename="std_msgs::msg::dds_::Float64MultiArray_"):
    layout: Layout
    data: t.sequence[t.float64]


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: t.uint32
    width: t.uint32
    encoding: str
    is_bigendian: t.uint8
    step: t.uint32
    data: t.sequence[t.uint8]


@dataclass
class Request(IdlStruct, typename="std_srvs::srv::dds_::Trigger_Request_"):
    guid: t.uint64
    number: t.int64
    structure_needs_at_least_one_member: t.uint8


@dataclass
class Response(IdlStruct, typename="std_srvs::srv::dds_::Trigger_Response_"):
    guid: t.uint64
    number: t.int64
    success: bool
    message: str


rounds, domain = int(sys.argv[2]) if len(sys.argv) > 2 else 2000, 72
participant = DomainParticipant(domain)
plain = Policy.DataRepresentation(use_cdrv0_representation=True)
best_effort = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(5), plain)
reliable = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.Durability.Volatile,
               Policy.History.KeepLast(10), plain)


def writer(name, kind, qos):
    return DataWriter(participant, Topic(participant, name, kind, qos=qos), qos=qos)


def reader(name, kind, qos):
    return DataReader(participant, Topic(participant, name, kind, qos=qos), qos=qos)


states, commands = writer("rt/joint_states", JointState, best_effort), reader(
    "rt/position_controller/commands", Floats, reliable)
images = writer("rt/camera/image_raw", Image, best_effort)
asked, answered = writer("rq/policy/estopRequest", Request, reliable), reader(
    "rr/policy/estopReply", Response, reliable)
reset_asked, reset_answered = reader("rq/robot/resetRequest", Request, reliable), writer(
    "rr/robot/resetReply", Response, reliable)
node = subprocess.Popen([sys.argv[1], "dds-cyclone", str(domain), "ask"], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, text=True)


def until(what, happened, seconds=20):
    deadline = time.time() + seconds
    while not happened():
        assert time.time() < deadline, f"{what} did not happen"
        time.sleep(0.01)


try:
    writers, readers = (states, images, asked, reset_answered), (commands, answered, reset_asked)
    until("the match", lambda: all(one.get_matched_subscriptions() for one in writers)
          and all(one.get_matched_publications() for one in readers))
    got = []
    until("a request of ours", lambda: got.extend(reset_asked.take(1)) or got)
    reset_answered.write(Response(got[0].guid, got[0].number, True, "reset by cyclone"))

    arrived, sent = {}, {}
    for number in range(1, rounds + 1):
        message = JointState(Header(Time(number, 0), "base"), [f"j{i}" for i in range(7)],
                             [float(number)] + [0.1] * 6, [0.0] * 7, [])
        sent[number] = time.perf_counter()
        states.write(message)
        until_then = sent[number] + 0.05
        while number not in arrived and time.perf_counter() < until_then:
            for one in commands.take(10):
                arrived[round(one.data[0] / 2)] = time.perf_counter()
    time.sleep(0.5)
    for one in commands.take(100):
        arrived.setdefault(round(one.data[0] / 2), time.perf_counter())
    lost = [number for number in sent if number not in arrived]
    assert not lost, f"{len(lost)} of {rounds} lost, first {lost[:5]}"
    trip = sorted((arrived[number] - sent[number]) * 1e6 for number in sent)
    print(f"cyclonedds: {rounds} of {rounds} round trips, p50 {trip[len(trip) // 2]:.0f} us, "
          f"p99 {trip[int(len(trip) * .99)]:.0f} us")
    picture = [0] * (640 * 480 * 3)
    for number in range(30):
        images.write(Image(Header(Time(number, 0), "cam"), 480, 640, "rgb8", 0, 1920, picture))
        time.sleep(1 / 30)
    for number in range(1, 21):
        asked.write(Request(77, number, 0))
        got = []
        until("the service's answer", lambda: got.extend(answered.take(1)) or got)
        assert (got[0].guid, got[0].number, got[0].success, got[0].message) == (77, number, True, "stopped"), got
    print("cyclonedds: 20 of 20 service calls answered with the asker's header")
finally:
    out, _ = node.communicate(timeout=30)
counts = dict(line.split(" ", 1) for line in out.strip().split("\n"))
arrived = int(counts["images"])  # best effort: a busy machine may lose some
assert (counts["answer"], counts["malformed"]) == ("true reset by cyclone", "0") and arrived > 15, counts
print(f"cyclonedds: {arrived} of 30 images of 640x480; its own service answered our client")
