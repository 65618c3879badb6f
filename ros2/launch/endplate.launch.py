"""Endplate beside a ros2_control robot: one process, started and respawned by launch, enabled by somebody else.

    ros2 launch endplate.launch.py robot:=/etc/endplate/robot.toml bundle:=/etc/endplate/policy

The binary needs no ROS; launch passes it what every node gets. Motion begins only after
`ros2 service call /endplate/enable std_srvs/srv/SetBool "{data: true}"`.
"""
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    value = LaunchConfiguration
    return LaunchDescription([
        DeclareLaunchArgument("endplate", default_value="endplate", description="the binary"),
        DeclareLaunchArgument("robot", description="robot.toml"),
        DeclareLaunchArgument("bundle", description="folder of the policy bundle"),
        DeclareLaunchArgument("transport", default_value="zenoh", description="zenoh or dds"),
        DeclareLaunchArgument("controller", default_value="forward_position"),
        DeclareLaunchArgument("command_topic", default_value="/position_controller/commands"),
        DeclareLaunchArgument("namespace", default_value="/"),
        ExecuteProcess(
            cmd=[
                value("endplate"), "run",
                "--robot", value("robot"),
                "--bundle", value("bundle"),
                "--transport", value("transport"),
                "--controller", value("controller"),
                "--command-topic", value("command_topic"),
                "--ros-args", "-r", ["__ns:=", value("namespace")],
            ],
            output="screen",
            # A restarted node is unconfigured and sends nothing until it is enabled.
            respawn=True,
            respawn_delay=2.0,
            sigterm_timeout="5",
        ),
    ])
