//! What controllers take: arrays, trajectories, jogs.

use super::{Duration, Header, Seq, interface, topic};

interface!(
    /// One dimension of an array.
    MultiArrayDimension<'a> = "std_msgs/msg/MultiArrayDimension" {
        /// Name.
        label: &'a str,
        /// Elements.
        size: u32,
        /// Elements from one to the next of the dimension before.
        stride: u32,
    }
);

interface!(
    /// The shape of an array; empty for one dimension.
    MultiArrayLayout<'a> = "std_msgs/msg/MultiArrayLayout" {
        /// Dimensions, outermost first.
        dim: Seq<'a, MultiArrayDimension<'a>>,
        /// Elements in front of the array.
        data_offset: u32,
    }
);

interface!(
    /// Numbers: the command of a forward controller, in the order of its joints.
    Float64MultiArray<'a> = "std_msgs/msg/Float64MultiArray" {
        /// Shape.
        layout: MultiArrayLayout<'a>,
        /// Numbers.
        data: Seq<'a, f64>,
    }
);
topic!(
    Float64MultiArray<'a>,
    "std_msgs",
    "Float64MultiArray",
    "1025ddc6b9552d191f89ef1a8d2f60f3d373e28b283d8891ddcc974e8c55397f"
);

interface!(
    /// One point of a trajectory. Each array is empty or has one value a joint.
    JointTrajectoryPoint<'a> = "trajectory_msgs/msg/JointTrajectoryPoint" {
        /// `[D]` rad.
        positions: Seq<'a, f64>,
        /// `[D]` rad/s.
        velocities: Seq<'a, f64>,
        /// `[D]` rad/s².
        accelerations: Seq<'a, f64>,
        /// `[D]` N·m.
        effort: Seq<'a, f64>,
        /// When, from the trajectory's start.
        time_from_start: Duration,
    }
);

interface!(
    /// A trajectory; an empty one ends the one being followed.
    JointTrajectory<'a> = "trajectory_msgs/msg/JointTrajectory" {
        /// Start; a stamp of 0 is now.
        header: Header<'a>,
        /// `[D]` joint names.
        joint_names: Seq<'a, &'a str>,
        /// Points, strictly later one after the other.
        points: Seq<'a, JointTrajectoryPoint<'a>>,
    }
);
topic!(
    JointTrajectory<'a>,
    "trajectory_msgs",
    "JointTrajectory",
    "179b33eba59d676f6d967ac71fe35e7ca2f64b2f3928f4a018cec115e213796e"
);

interface!(
    /// Joint velocities for MoveIt Servo.
    JointJog<'a> = "control_msgs/msg/JointJog" {
        /// Must be fresh.
        header: Header<'a>,
        /// `[D]` joint names.
        joint_names: Seq<'a, &'a str>,
        /// `[D]` rad, or empty.
        displacements: Seq<'a, f64>,
        /// `[D]` rad/s, or empty.
        velocities: Seq<'a, f64>,
        /// How long, s.
        duration: f64,
    }
);
topic!(JointJog<'a>, "control_msgs", "JointJog", "ba249455a20f70168a1acb7bf43b776b72ff1f7eb5fc4cfea443f749e963c6e7");
