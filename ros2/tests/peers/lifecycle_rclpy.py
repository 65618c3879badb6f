"""rclpy (ROS 2 Jazzy, rmw_fastrtps) as the operator of `endplate run --transport dds` with `endplate sim --transport dds`
as its robot (or both over `r2r`): lifecycle from unconfigured to active and back, parameters, switches, diagnostics; the arm moves only while
active. Ends with 75 where the simulated robot fell silent for so long that the node deactivated, as it must: the machine was
too busy to show anything.

usage: lifecycle_rclpy.py ENDPLATE_BINARY [dds|r2r]
"""
import os
import subprocess
import sys
import threading
import time

domain = 73
os.environ.update(ROS_DOMAIN_ID=str(domain), RMW_IMPLEMENTATION="rmw_fastrtps_cpp",
                  ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
os.environ.setdefault("ROS_LOG_DIR", "/tmp/endplate-ros-log")

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import TransitionEvent  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState  # noqa: E402
from rcl_interfaces.msg import Log, Parameter, ParameterEvent, ParameterValue  # noqa: E402
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from operated_arm import MACHINE_TOO_BUSY, MOVED_RAD, commands, held, states, travel, until  # noqa: E402

binary, transport = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "dds"
rclpy.init()
me = rclpy.create_node("operator")
events, parts, lines, frames, changes = [], {}, [], [], []
me.create_subscription(JointState, "/joint_states", lambda m: states.append(
    (time.monotonic(), dict(zip(m.name, m.position)))), qos_profile_sensor_data)
me.create_subscription(Float64MultiArray, "/position_controller/commands",
                       lambda m: commands.append((time.monotonic(), list(m.data))), 10)
me.create_subscription(TransitionEvent, "/endplate/transition_event", lambda m: events.append(m.goal_state.label), 10)
me.create_subscription(DiagnosticArray, "/diagnostics",
                       lambda m: parts.update({s.name: (s.level, s.message) for s in m.status}), 10)
me.create_subscription(Log, "/rosout", lambda m: lines.append(m.msg),
                       QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL))
me.create_subscription(ParameterEvent, "/parameter_events", lambda m: changes.extend(
    p.name for p in m.changed_parameters if m.node == "/endplate"), 100)
me.create_subscription(Image, "/front/image_raw", lambda m: frames.append((m.width, m.height, m.encoding)),
                       qos_profile_sensor_data)
instruction = me.create_publisher(String, "/endplate/instruction", 10)
executor = SingleThreadedExecutor()
executor.add_node(me)
threading.Thread(target=executor.spin, daemon=True).start()
clients = {}


def call(kind, name, **fields):
    client = clients.setdefault(name, me.create_client(kind, f"/endplate/{name}"))
    assert client.wait_for_service(20), name
    answer = client.call_async(kind.Request(**fields))
    until(f"the answer of {name}", answer.done, 10)
    return answer.result()


def change(label):
    request = ChangeState.Request()
    request.transition.label = label
    client = clients.setdefault("change_state", me.create_client(ChangeState, "/endplate/change_state"))
    answer = client.call_async(request)
    until(f"the answer to {label}", answer.done, 10)
    return answer.result().success


def state():
    return call(GetState, "get_state").current_state.label


def stopped(what):
    """Braking ends: twenty commands name the same goal, and so do the hundred that follow."""
    first, since = len(commands), time.monotonic()
    until("rest", lambda: len(commands) >= first + 20 and all(goal == commands[-1][1] for _, goal in commands[-20:]))
    rest, goal = len(commands), commands[-1][1]
    print(f"{what}: commands rest after {time.monotonic() - since:.1f} s")
    until("a hundred commands", lambda: len(commands) >= rest + 100)
    strays = [one for _, one in commands[rest:] if one != goal]
    assert not strays, f"{what}: {len(strays)} commands name another goal than {goal}, the first {strays[0]}"


def moves(what):
    since = time.monotonic()
    until("motion", lambda: time.monotonic() - since > 0.5 and travel(since) > MOVED_RAD)
    print(f"{what}: {travel(since) * 1e3:.0f} mrad, {sum(at > since for at, _ in commands)} commands")


def start(*words):
    return subprocess.Popen([binary, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def text(value):
    return ParameterValue(type=4, string_value=value)


robot = start("sim", "--transport", transport)
node = start("run", "--transport", transport, "--instruction", "pick up the red cube", "--seconds", "120")
try:
    until("the nodes in the graph", lambda: {"endplate", "endplate_sim"} <= set(me.get_node_names()))
    until("joint states", lambda: len(states) > 20)
    assert state() == "unconfigured"
    held("unconfigured")
    assert not change("activate"), "activate from unconfigured is no transition"
    assert change("configure") and state() == "inactive"
    held("inactive")
    names = [one.transition.label for one in call(GetAvailableTransitions, "get_available_transitions").available_transitions]
    assert names == ["cleanup", "activate", "shutdown"], names
    assert change("activate") and state() == "active"
    moves("active")
    listed = call(ListParameters, "list_parameters").result.names
    assert {"instruction", "bundle", "joints", "use_sim_time"} <= set(listed), listed
    results = call(SetParameters, "set_parameters", parameters=[
        Parameter(name="instruction", value=text("pick up the blue cube")),
        Parameter(name="diagnostics_hz", value=ParameterValue(type=3, double_value=2.0))]).results
    assert results[0].successful and not results[1].successful and "active" in results[1].reason, results
    got = call(GetParameters, "get_parameters", names=["instruction"]).values[0].string_value
    assert got == "pick up the blue cube", got
    assert change("deactivate") and state() == "inactive"
    held("inactive again")
    assert change("cleanup") and state() == "unconfigured"
    assert call(SetBool, "enable", data=True).success and state() == "active"
    moves("enabled")
    assert call(Trigger, "estop").success
    stopped("the latched stop")
    assert call(Trigger, "reset").success
    assert call(SetBool, "enable", data=False).success
    until("leaving active", lambda: state() == "inactive")
    instruction.publish(String(data="pick up the green cube"))
    until("the instruction", lambda: call(GetParameters, "get_parameters", names=["instruction"])
          .values[0].string_value == "pick up the green cube")
    assert events == ["inactive", "active", "inactive", "unconfigured", "inactive", "active", "inactive"], events
    assert {(96, 96, "rgb8")} == set(frames), set(frames)
    assert any("joint_states" in name for name in parts) and any("control" in name for name in parts), parts
    assert any("e-stop" in line for line in lines), lines
    assert "instruction" in changes, changes
    assert change("shutdown")
    assert node.wait(15) == 0, node.stderr.read()
    print(f"rclpy: unconfigured to active and back; {len(frames)} images, {len(states)} joint states, "
          f"{len(parts)} parts in /diagnostics, {len(lines)} lines on /rosout")
except BaseException:
    for one in (node, robot):
        one.kill()
        print(one.communicate()[1], file=sys.stderr)
    if any("no joint state came" in line for line in lines):
        os._exit(MACHINE_TOO_BUSY)
    raise
finally:
    for one in (node, robot):
        if one.poll() is None:
            one.terminate()
            one.wait(10)
os._exit(0)
