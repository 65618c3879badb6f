//! The chain of the robot description against the poses the physics has.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use endplate_hal::{Chain, ChainLink, Instant, Kinematics, ModelPath, RobotSpec, robots};
use endplate_sim::model::{JOINT_NAMES, Model, SO101_LIKE};
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;

/// A pose inside the limits for every joint, spread evenly by an irrational step.
fn spread(robot: &RobotSpec, number: usize) -> [f64; 6] {
    std::array::from_fn(|joint| {
        let limits = robot.joints[joint].limits;
        let share = (number as f64 * [0.618_034, 0.754_878, 0.569_840, 0.819_173, 0.671_044, 0.856_675][joint]).fract();
        limits.lower_rad + (limits.upper_rad - limits.lower_rad) * share
    })
}

#[test]
fn the_described_chain_and_the_chain_of_the_mjcf_stand_where_the_physics_puts_the_hand() {
    let robot = RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim.toml").unwrap();
    let path = ModelPath::read(SO101_LIKE, None, "link5").unwrap();
    let names: Vec<&str> = path.links.iter().map(|link| link.joint.as_str()).collect();
    assert_eq!(names, JOINT_NAMES[..5]);
    let links: Vec<ChainLink> = path
        .links
        .iter()
        .enumerate()
        .map(|(joint, link)| ChainLink {
            joint,
            origin_m: link.origin.translation.vector.into(),
            rpy_rad: link.origin.rotation.euler_angles().into(),
            axis: link.axis,
        })
        .collect();
    let hand = Chain::new(&links, path.tool.translation.vector.into()).unwrap();
    let model = Arc::new(Model::so101_like().unwrap());
    let mut worst = 0.0;
    for number in 1..=50 {
        let start_rad = spread(&robot, number);
        let scene = Scene { start_rad, ..Scene::sample(2_000_000) };
        let world = SimRobot::new(Arc::clone(&model), &scene, SimOptions::from_spec(&robot), Instant::ZERO).unwrap();
        let joints = world.joints_rad();
        let (place, rows) = world.body("link5").unwrap();
        // The description's tool lies 80 mm before the hand's frame.
        let tip: Vec<f64> = (0..3).map(|i| place[i] + 0.08 * rows[i][2]).collect();
        let pose = robot.chain.as_ref().unwrap().forward(&joints).unwrap();
        let rotation = pose.rotation.to_rotation_matrix();
        for i in 0..3 {
            worst = f64::max(worst, (pose.translation.vector[i] - tip[i]).abs());
            worst = f64::max(worst, (hand.tool_m(&joints).unwrap()[i] - place[i]).abs());
            for (j, value) in rows[i].iter().enumerate() {
                worst = f64::max(worst, (rotation[(i, j)] - value).abs());
            }
        }
    }
    // The physics counts in f32.
    assert!(worst < 2e-6, "{worst}");
    assert!(
        SimRobot::new(model, &Scene::sample(1), SimOptions::from_spec(&robot), Instant::ZERO)
            .unwrap()
            .body("link9")
            .is_err()
    );
}
