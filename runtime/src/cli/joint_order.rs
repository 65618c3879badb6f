//! Doctor's finger-print of the joint order, on the simulated robot.

use super::bundle::PolicyArguments;
use super::doctor::{Line, Need};
use super::error::CliError;
use endplate_hal::{Frame, Instant, RobotSpec};
use endplate_runtime::joint_order::{JointOrder, JointOrderEvidence, Sample, pairs};
use endplate_sim::dataset::{CAMERAS, IMAGE_SIZE, Studio};
use endplate_sim::expert::rollout;
use endplate_sim::look::Look;
use endplate_sim::model::{JOINTS, Model};
use endplate_sim::physics::Physics;
use endplate_sim::scene::Scene;
use endplate_sim::task::{self, COLOURS};
use std::sync::Arc;

/// First seed, as an evaluation has it.
const SEED: u64 = 1_000_000;
/// Moments of one episode, in ticks of 10 Hz.
const TICKS: [usize; 2] = [2, 22];

/// Moments of the demonstration: the expert at work, as the cameras and encoders see it.
fn samples(seeds: core::ops::Range<u64>) -> Result<Vec<Sample>, CliError> {
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    let mut studio = Studio::new(Arc::clone(&model)).map_err(CliError::failed)?;
    let mut out = Vec::new();
    for index in seeds {
        let seed = SEED + index;
        let target = index as usize % COLOURS.len();
        let mut physics = Physics::new(Arc::clone(&model), &Scene::sample(seed));
        let mut tick = 0;
        rollout(&mut physics, None, target, TICKS[1] + 1, 0, |physics, command, plan| {
            if TICKS.contains(&tick) {
                let seen = studio.frame(physics, &Look::default(), command, plan, target);
                let frames = seen.images.chunks_exact(seen.images.len() / CAMERAS.len()).map(|pixels| Frame {
                    data: pixels.to_vec(),
                    sequence: 1,
                    captured: Instant::ZERO,
                    ..Frame::new(IMAGE_SIZE, IMAGE_SIZE)
                });
                out.push(Sample {
                    frames: frames.collect(),
                    state_rad: seen.state.iter().map(|value| f64::from(*value)).collect(),
                    instruction: task::instruction(seed, target),
                });
            }
            tick += 1;
            plan.rows[1]
        });
    }
    Ok(out)
}

fn name(robot: &RobotSpec, joint: usize) -> &str {
    robot.joints.get(joint).map_or("?", |joint| &joint.name)
}

fn describe(robot: &RobotSpec, verdict: &JointOrder) -> String {
    match verdict {
        JointOrder::AsDescribed => "as described: every exchange of two joints is excluded".into(),
        JointOrder::Exchanged(j, k) => format!("{} and {} look exchanged", name(robot, *j), name(robot, *k)),
        JointOrder::Undetermined(open) => {
            let all = pairs(robot.joints.len()).count();
            let names: Vec<_> = open.iter().map(|&(j, k)| format!("{}/{}", name(robot, j), name(robot, k))).collect();
            let names = if open.len() > 5 { String::new() } else { format!(": {}", names.join(", ")) };
            format!("undetermined: {} of {all} exchanges are neither seen nor excluded{names}", open.len())
        }
    }
}

/// The finger-print, dead inputs, and what planted exchanges give.
pub(super) fn lines(robot: &RobotSpec, policy: &PolicyArguments, planted: usize) -> Result<Vec<Line>, CliError> {
    let (bundle, mut loaded) = policy.load()?;
    let spec = bundle.spec();
    let cameras: Vec<&str> = spec.cameras.iter().map(|slot| slot.name.as_str()).collect();
    if cameras != CAMERAS || spec.state.len() != JOINTS || robot.joints.len() != JOINTS || spec.observation_steps() != 1
    {
        return Err(CliError::Refused(format!(
            "--joint-order: {}: the simulated robot shows {CAMERAS:?} and {JOINTS} joints, one moment at a time",
            bundle.source()
        )));
    }
    let order: Vec<usize> = (0..JOINTS).collect();
    let moments = samples(0..3)?;
    let mut measure = |moments: &[Sample], order: &[usize]| {
        JointOrderEvidence::measure(loaded.policy.as_mut(), moments, order).map_err(CliError::failed)
    };
    let evidence = measure(&moments, &order)?;
    let verdict = evidence.verdict();
    let mut lines = vec![Line {
        what: "joint order (advisory)",
        pass: !matches!(verdict, JointOrder::Exchanged(..)),
        need: Need::Advised,
        found: describe(robot, &verdict),
        fix: "compare servo ids, cables and joint names of the robot description, one joint at a time, torque off",
    }];
    // Without an answer nothing is known of inputs either.
    let asked = evidence.refused() < moments.len();
    let dead: Vec<String> = evidence
        .dead_states()
        .into_iter()
        .map(|joint| format!("state {}", name(robot, joint)))
        .chain(evidence.dead_cameras().into_iter().map(|slot| format!("camera {}", cameras[slot])))
        .collect();
    lines.push(Line {
        what: "dead inputs (advisory)",
        pass: asked && dead.is_empty(),
        need: Need::Advised,
        found: if !asked {
            "every answer of the policy was refused".into()
        } else if dead.is_empty() {
            "the policy reacts to every joint and every camera".into()
        } else {
            format!("the policy does not react to {}", dead.join(", "))
        },
        fix: "an input the policy ignores may be bound to the wrong name, or was constant in training",
    });
    if planted > 0 {
        lines.extend(plant(robot, planted, &mut measure)?);
    }
    Ok(lines)
}

/// Evidence of an order from samples and the pairs that are exchanged.
type Measure<'a> = dyn FnMut(&[Sample], &[usize]) -> Result<JointOrderEvidence, CliError> + 'a;

/// Exchanges two joints, every second time of the state alone, and as many times none, on other scenes each time.
fn plant(robot: &RobotSpec, planted: usize, measure: &mut Measure<'_>) -> Result<Vec<Line>, CliError> {
    let (mut found, mut open, mut wrong, mut alarms, mut clean_open) = (0, 0, Vec::new(), 0, 0);
    let (mut open_pairs, mut all_pairs) = (0, 0);
    let every: Vec<_> = pairs(JOINTS).collect();
    for index in 0..planted {
        let (j, k) = every[index % every.len()];
        let moments = samples(100 + 3 * index as u64..103 + 3 * index as u64)?;
        let mut order: Vec<usize> = (0..JOINTS).collect();
        let mut exchanged = moments.clone();
        // Bound in another order; or the cables of two joints exchanged.
        if index % 2 == 0 {
            order.swap(j, k);
        } else {
            exchanged.iter_mut().for_each(|sample| sample.state_rad.swap(j, k));
        }
        match measure(&exchanged, &order)?.verdict() {
            JointOrder::Exchanged(a, b) if (a, b) == (j, k) => found += 1,
            JointOrder::Undetermined(_) => open += 1,
            other => wrong.push(format!("{}/{}: {}", name(robot, j), name(robot, k), describe(robot, &other))),
        }
        let plain: Vec<usize> = (0..JOINTS).collect();
        all_pairs += every.len();
        match measure(&moments, &plain)?.verdict() {
            JointOrder::Exchanged(..) => alarms += 1,
            JointOrder::Undetermined(pairs) => {
                clean_open += 1;
                open_pairs += pairs.len();
            }
            JointOrder::AsDescribed => {}
        }
    }
    Ok(vec![
        Line {
            what: "planted exchanges",
            pass: wrong.is_empty(),
            need: Need::Advised,
            found: format!(
                "{found} of {planted} found, {open} undetermined, {} missed or misnamed {}",
                wrong.len(),
                wrong.join("; ")
            ),
            fix: "a miss is a fault of the finger-print: report it with the bundle",
        },
        Line {
            what: "unplanted runs",
            pass: alarms == 0,
            need: Need::Advised,
            found: format!(
                "{alarms} false alarms of {planted}, {clean_open} undetermined ({:.0} % of the pairs open)",
                100.0 * open_pairs as f64 / all_pairs.max(1) as f64
            ),
            fix: "a false alarm is a fault of the finger-print: report it with the bundle",
        },
    ])
}
