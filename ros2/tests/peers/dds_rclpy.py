"""rclpy (ROS 2 Jazzy, rmw_fastrtps) as the robot against the example node: round trips, images at 30 Hz, services both
ways, the graph.

usage: dds_rclpy.py ECHO_NODE_BINARY [dds|r2r] [ROUND_TRIPS]
"""
import os
import subprocess
import sys
import threading
import time

domain, transport, rounds = 71, *(sys.argv[2:] + ["dds", 2000][len(sys.argv) - 2:])
rounds = int(rounds)
os.environ.update(ROS_DOMAIN_ID=str(domain), RMW_IMPLEMENTATION="rmw_fastrtps_cpp",
                  ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
os.environ.setdefault("ROS_LOG_DIR", "/tmp/endplate-ros-log")

import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, qos_profile_sensor_data, qos_profile_system_default  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

rclpy.init()
robot = rclpy.create_node("robot")
arrived = {}


def on_command(message):
    arrived[round(message.data[0] / 2)] = time.perf_counter()


def on_reset(_, response):
    response.success, response.message = True, "reset by rclpy"
    return response


robot.create_subscription(Float64MultiArray, "/position_controller/commands", on_command, qos_profile_system_default)
states = robot.create_publisher(JointState, "/joint_states", qos_profile_system_default)
images = robot.create_publisher(Image, "/camera/image_raw", qos_profile_sensor_data)
robot.create_service(Trigger, "/robot/reset", on_reset)
estop = robot.create_client(Trigger, "/policy/estop")
executor = SingleThreadedExecutor()
executor.add_node(robot)
threading.Thread(target=executor.spin, daemon=True).start()
node = subprocess.Popen([sys.argv[1], transport, str(domain), "ask"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        text=True)


def until(what, happened, seconds=20):
    deadline = time.time() + seconds
    while not happened():
        assert time.time() < deadline, f"{what} did not happen"
        time.sleep(0.02)


try:
    until("the node in rclpy's graph", lambda: ("policy", "/") in robot.get_node_names_and_namespaces())
    until("its endpoints", lambda: states.get_subscription_count() == 1 and images.get_subscription_count() == 1)
    services = lambda: dict(robot.get_service_names_and_types_by_node("policy", "/"))  # noqa: E731
    until("its service", lambda: services().get("/policy/estop") == ["std_srvs/srv/Trigger"])
    info = robot.get_subscriptions_info_by_topic("/joint_states")
    assert [(one.node_name, one.topic_type) for one in info] == [("policy", "sensor_msgs/msg/JointState")], info
    names = [f"j{i}" for i in range(7)]

    def send(number):
        message = JointState(name=names, position=[float(number)] + [0.1] * 6, velocity=[0.0] * 7)
        message.header.stamp.sec = number
        states.publish(message)
        return time.perf_counter()

    until("the first echo", lambda: send(10**6) and 10**6 in arrived)
    sent = {}
    for number in range(rounds):
        sent[number] = send(number)
        while number not in arrived and time.perf_counter() - sent[number] < 1:
            time.sleep(0.0002)
    lost = [number for number in sent if number not in arrived]
    assert not lost, f"{len(lost)} of {rounds} lost, first {lost[:5]}"
    trip = sorted((arrived[number] - sent[number]) * 1e6 for number in sent)
    print(f"rclpy: {rounds} of {rounds} round trips, p50 {trip[len(trip) // 2]:.0f} us, "
          f"p99 {trip[int(len(trip) * .99)]:.0f} us")
    picture = Image(height=480, width=640, encoding="rgb8", step=1920, data=bytes(640 * 480 * 3))
    for number in range(90):
        picture.header.stamp.sec = number
        images.publish(picture)
        time.sleep(1 / 30)
    assert estop.wait_for_service(10)
    for _ in range(20):
        answer = estop.call_async(Trigger.Request())
        until("the service's answer", answer.done)
        assert answer.result().success and answer.result().message == "stopped"
    print("rclpy: 20 of 20 service calls answered")
finally:
    out, _ = node.communicate(timeout=30)
counts = dict(line.split(" ", 1) for line in out.strip().split("\n"))
images = int(counts.pop("images"))  # best effort: a busy machine may lose some
enough = 45
assert counts == {"answer": "true reset by rclpy", "malformed": "0", "findings": "0"} and images > enough, (counts, images)
print(f"rclpy: {images} of 90 images of 640x480 at 30 Hz; its own service answered our client; no finding in the graph")
os._exit(0)
