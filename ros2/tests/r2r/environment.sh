# Sourced: a ROS 2 Jazzy of unofficial wheels from PyPI (x86-64, Python 3.10 to 3.13; for tests only) as `r2r` wants to find
# a ROS that is sourced. Where a real one is sourced, none of this is needed.
#
# Reads ENDPLATE_ROS_PEERS, the interpreter of the environment to use or make; usually target/ros-peers/bin/python.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export ENDPLATE_ROS_PEERS=${ENDPLATE_ROS_PEERS:-$root/target/ros-peers/bin/python}
venv=$(dirname "$(dirname "$ENDPLATE_ROS_PEERS")")
[ -x "$ENDPLATE_ROS_PEERS" ] || python3 -m venv "$venv"
"$ENDPLATE_ROS_PEERS" -m pip install --quiet --disable-pip-version-check \
  ros-jazzy-rclpy ros-jazzy-common-interfaces ros-jazzy-rmw-fastrtps-cpp libclang==18.1.1
site=$("$ENDPLATE_ROS_PEERS" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The wheels have rcl linked to rmw_fastrtps_cpp itself, so the library that chooses one is missing.
linked=$root/target/r2r/prefix
mkdir -p "$linked/lib"
ln -sfn "$venv/lib/librmw_fastrtps_cpp.so" "$linked/lib/librmw_implementation.so"

export ROS_DISTRO=jazzy RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$linked
# Packages of this node's messages and services, and what they are made of; the wheels have no control_msgs.
export IDL_PACKAGE_FILTER="std_msgs;sensor_msgs;geometry_msgs;trajectory_msgs;diagnostic_msgs;std_srvs;lifecycle_msgs;\
rosgraph_msgs;service_msgs;builtin_interfaces;rcl_interfaces;unique_identifier_msgs;action_msgs"
export LIBCLANG_PATH=$site/clang/native BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"

# For running, and for the build script of r2r: the wheels' libraries. Some of them want those of Python without saying so.
export LD_LIBRARY_PATH=$venv/lib:$(printf '%s:' "$site"/ros_*.libs)$linked/lib
libpython=$("$ENDPLATE_ROS_PEERS" -c 'import sysconfig as s; print(s.get_config_var("LIBDIR") + "/" + s.get_config_var("INSTSONAME"))')
