//! What is looked at on real buses and cameras before torque: everything that is wrong, at once, each with its remedy.

use super::error::CliError;
use super::robot_file::CHANGE_ME;
use core::time::Duration;
use endplate_calibration::plausibility::{Finding, Tolerances, in_known_pose, spans, swapped};
use endplate_hal::servo::{Known, Master, Protocol, SerialPort, SetupError, Timing, dynamixel, feetech};
use endplate_hal::{
    ArmSpec, BusSpec, CameraSpec, Clock, EMULATED, Frame, JointSpec, MonotonicClock, RobotSpec, camera,
};
use endplate_runtime::robot::connect;
use std::path::Path;
use std::sync::Arc;

/// What one arm's bus looks like.
pub struct ArmLook {
    /// The arm.
    pub arm: String,
    /// Its port.
    pub port: String,
    /// Servos that said what they are.
    pub servos: usize,
    /// What speaks against torque, each with its remedy.
    pub problems: Vec<String>,
    /// Errors of the set-up among them that a swap may explain.
    stale: bool,
    known: Vec<Option<Known>>,
}

/// Looks at every arm on a real bus; nothing is written. With `parked` the arm is said to stand in its park pose, which
/// is held against what its joints read.
pub fn look(robot: &RobotSpec, parked: bool) -> Result<Vec<ArmLook>, CliError> {
    let mut looks: Vec<ArmLook> = Vec::new();
    for arm in &robot.arms {
        let Some(bus) = arm.bus.as_ref().filter(|bus| bus.port != EMULATED) else { continue };
        looks.push(look_at(robot, arm, bus, &robot.joints[arm.joints.clone()]));
    }
    let known = |joint: usize| {
        let arm = robot.arms.iter().find(|arm| arm.joints.contains(&joint))?;
        let look = looks.iter().find(|look| look.arm == arm.name)?;
        look.known.get(joint - arm.joints.start).copied().flatten()
    };
    let known: Vec<Option<Known>> = (0..robot.joints.len()).map(known).collect();
    let held: Vec<_> = known.iter().map(|known| known.map(|known| known.registers)).collect();
    let mut findings = swapped(robot, &held);
    findings.extend(spans(robot, &Tolerances::default()));
    if parked {
        findings.extend(parked_wrongly(robot, &known)?);
    }
    for finding in findings {
        let arm = match &finding {
            Finding::SwappedArms { arm, .. } => Some(arm),
            finding => joint_of(finding)
                .and_then(|joint| robot.joints.iter().find(|known| &known.name == joint))
                .map(|joint| &joint.arm),
        };
        let Some(look) = looks.iter_mut().find(|look| Some(&look.arm) == arm) else { continue };
        if matches!(finding, Finding::SwappedArms { .. }) && look.stale {
            // One cause, not one line a servo.
            look.problems.retain(|problem| !problem.contains(STALE));
        }
        look.problems.push(finding.to_string());
    }
    Ok(looks)
}

/// What a stale calibration is known by among the problems.
const STALE: &str = "and the calibration file says";

fn joint_of(finding: &Finding) -> Option<&String> {
    match finding {
        Finding::SwappedServos { joint, .. }
        | Finding::Span { joint, .. }
        | Finding::Shifted { joint, .. }
        | Finding::OutsideRange { joint, .. } => Some(joint),
        _ => None,
    }
}

/// Refuses a robot with problems, all of them named.
pub fn require_sound(robot: &RobotSpec, parked: bool) -> Result<(), CliError> {
    let looks = look(robot, parked)?;
    let lines: Vec<String> = looks
        .iter()
        .flat_map(|look| {
            look.problems.iter().map(|problem| format!("\n  arm {} on {}: {problem}", look.arm, look.port))
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(CliError::Input(format!("{}: torque stays off:{}", robot.source, lines.concat())))
}

fn look_at(robot: &RobotSpec, arm: &ArmSpec, bus: &BusSpec, joints: &[JointSpec]) -> ArmLook {
    let mut look = ArmLook {
        arm: arm.name.clone(),
        port: bus.port.clone(),
        servos: 0,
        problems: Vec::new(),
        stale: false,
        known: vec![None; joints.len()],
    };
    if bus.port.contains(CHANGE_ME) {
        look.problems.push(
            "the description leaves the port to you: write it, or give --port (`endplate servo scan` lists ports)"
                .to_owned(),
        );
        return look;
    }
    let margin = robot.control.implausible_margin_rad;
    let mut servo_arm = match connect(arm, joints, margin, Path::new(&bus.port)) {
        Ok(servo_arm) => servo_arm,
        Err(error) => {
            look.problems.push(error.to_string());
            return look;
        }
    };
    let surveys = match servo_arm.survey() {
        Ok(surveys) => surveys,
        Err(error) => {
            look.problems
                .push(format!("{error}, though it answers pings: check its cable, and that nobody else uses the bus"));
            return look;
        }
    };
    let problems = servo_arm.judge(&surveys, bus.baud);
    drop(servo_arm);
    look.stale = problems.iter().any(|problem| matches!(problem, SetupError::Calibration { .. }));
    look.problems = problems
        .iter()
        .map(|problem| match problem {
            SetupError::Silent { .. } => other_rates(bus).unwrap_or_else(|| problem.to_string()),
            problem => problem.to_string(),
        })
        .collect();
    look.known = surveys.iter().map(|survey| survey.known).collect();
    look.servos = look.known.iter().flatten().count();
    look
}

/// Whether servos answer at another rate than described: the message, if so.
fn other_rates(bus: &BusSpec) -> Option<String> {
    let rates: &[u32] = match bus.protocol {
        Protocol::Feetech => &feetech::BAUD_RATES,
        Protocol::Dynamixel => &dynamixel::BAUD_RATES,
    };
    rates.iter().filter(|&&rate| rate != bus.baud).find_map(|&rate| {
        let port = SerialPort::open(Path::new(&bus.port), rate).ok()?;
        let timing = Timing { baud: rate, reply: Duration::from_millis(20), retries: 0 };
        let (seen, _) = Master::new(bus.protocol, port, timing).broadcast_ping(Duration::from_millis(120)).ok()?;
        let ids: Vec<String> = seen.iter().map(|(id, _)| id.to_string()).collect();
        (!ids.is_empty()).then(|| {
            format!(
                "no servo answers at {} baud, and {} at {rate}: write baud = {rate} in the description, or change the servos \
with `endplate servo set-baud`",
                bus.baud,
                ids.join(", ")
            )
        })
    })
}

/// What speaks against the calibration in a pose that the operator vouches for.
fn parked_wrongly(robot: &RobotSpec, known: &[Option<Known>]) -> Result<Vec<Finding>, CliError> {
    let Some(park) = &robot.poses.park else {
        return Err(CliError::Input(format!("{}: --parked needs the pose: describe [poses] park", robot.source)));
    };
    let mut read = *park;
    for (joint, (spec, known)) in robot.joints.iter().zip(known).enumerate() {
        // A servo that says nothing has been named already.
        if let (Some(servo), Some(known)) = (&spec.servo, known) {
            read[joint] = servo.map.rad(known.count);
        }
    }
    Ok(in_known_pose(robot, &read, park, &Tolerances::default()))
}

/// How long a camera may take to give its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(4);

/// Opens a camera and waits for a frame: what was found, or what is wrong and what to do.
pub fn look_through(spec: &CameraSpec) -> Result<String, String> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut camera = camera::open(spec, Arc::clone(&clock)).map_err(|error| error.to_string())?;
    let (width, height) = camera.size();
    let mut frame = Frame::new(width, height);
    let start = clock.now();
    loop {
        let now = clock.now();
        match camera.capture(now, &mut frame) {
            Ok(true) => {
                return Ok(format!(
                    "{}: {width}×{height}, first frame after {} ms",
                    spec.name,
                    now.duration_since(start).as_millis()
                ));
            }
            Ok(false) => {}
            Err(error) => return Err(format!("{}: {error}: is it plugged in?", spec.name)),
        }
        if now.duration_since(start) > FIRST_FRAME {
            return Err(format!(
                "{} gives no frames: does another program use it? On one USB 2 hub two uncompressed streams do not fit: \
choose format = \"mjpeg\"",
                spec.name
            ));
        }
        clock.sleep_until(now.saturating_add(Duration::from_millis(2)));
    }
}
