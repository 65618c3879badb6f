//! `calibrate joints`: by hand, torque off, written and read back.

use crate::cli::error::{CliError, read_text, write};
use crate::cli::robot_file;
use clap::Args;
use core::time::Duration;
use endplate_calibration::MotorCalibrations;
use endplate_calibration::joints::{
    CalibrationBus, JointCalibration, JointCalibrationError, JointPlan, Phase, SimulatedBus, load,
};
use endplate_calibration::plausibility::{Finding, Tolerances, against_robot, span};
use endplate_hal::{ArmSpec, RobotSpec};
use endplate_runtime::signals::StopRequest;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Arguments of `calibrate joints`.
#[derive(Args)]
pub struct JointArguments {
    /// Robot description: names, servo ids, travels, bus. Its calibration file need not be there yet.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// The arm to calibrate, where the robot has several.
    #[arg(long)]
    arm: Option<String>,
    /// Serial device, instead of the one described.
    #[arg(long)]
    port: Option<PathBuf>,
    /// Write the calibration, as LeRobot reads it; without it, where the description names it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Load this calibration into the servos instead, and read it back.
    #[arg(long, value_name = "FILE", conflicts_with = "write")]
    load: Option<PathBuf>,
    /// Ask for every joint's positive direction as well; sets `drive_mode`.
    #[arg(long)]
    direction: bool,
    /// Joints without stops, which get a whole turn.
    #[arg(long, value_name = "NAME", default_value = "wrist_roll")]
    full_turn: Vec<String>,
    /// Practise on a simulated arm that moves by itself.
    #[arg(long)]
    simulated: bool,
}

/// How often the joints are read while they are moved.
const POLL: Duration = Duration::from_millis(20);
/// How often the screen is written anew meanwhile.
const REDRAW: u32 = 10;

/// Calibrates, checks against the robot, writes.
pub fn calibrate(arguments: &JointArguments) -> Result<(), CliError> {
    let path = arguments.robot.as_deref().unwrap_or(Path::new("so101_sim"));
    let whole = robot_file::open_uncalibrated(path)?;
    let arm = choose(&whole, arguments.arm.as_deref())?.clone();
    let robot = only(&whole, &arm);
    let described = arm.bus.as_ref().and_then(|bus| bus.calibration.as_ref());
    let described = described.map(|file| robot_file::beside(path.parent().unwrap_or(Path::new(".")), file));
    let target = arguments.write.clone().or(described);
    if target.is_none() && arguments.load.is_none() {
        return Err(CliError::Input(
            "--write FILE: say where the calibration goes, or name it in the arm's bus".into(),
        ));
    }
    let job = Job { arguments, robot: &robot, plan: plan(&robot, arguments)?, target };
    if arguments.simulated {
        // Encoders wherever they happen to stand, one near its end.
        let bus = SimulatedBus::new((0..job.plan.len()).map(|index| (60 + 701 * index as i32) % 4096).collect());
        let mut hand = simulated_hand(&robot, &bus);
        return job.run(bus, &mut hand);
    }
    job.run(open_bus(arguments, &robot, &arm)?, &mut |_, _| false)
}

/// The arm meant.
fn choose<'a>(robot: &'a RobotSpec, name: Option<&str>) -> Result<&'a ArmSpec, CliError> {
    let known = || robot.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, robot.arms.as_slice()) {
        (None, [arm]) => Ok(arm),
        (None, _) => Err(CliError::Input(format!("--arm: {} has several: name one of {}", robot.source, known()))),
        (Some(name), arms) => arms.iter().find(|arm| arm.name == name).ok_or_else(|| {
            CliError::Input(format!("--arm {name:?}: {} has no such arm: name one of {}", robot.source, known()))
        }),
    }
}

/// The robot with the joints of one arm only: what a calibration file is about.
fn only(robot: &RobotSpec, arm: &ArmSpec) -> RobotSpec {
    let mut one = robot.clone();
    one.joints = robot.joints[arm.joints.clone()].to_vec();
    // Links name joints of the whole robot.
    one.chain = robot.chain.clone().filter(|_| robot.arms.len() == 1);
    one
}

#[cfg(feature = "serial")]
fn open_bus(
    arguments: &JointArguments,
    robot: &RobotSpec,
    arm: &ArmSpec,
) -> Result<endplate_hal::servo::Master<endplate_hal::servo::SerialPort>, CliError> {
    use endplate_hal::EMULATED;
    use endplate_hal::servo::{Master, SerialPort, Timing};
    let nothing = || {
        CliError::Input(format!(
            "{}: arms[{}].bus: describe the servo bus, or practise with --simulated",
            robot.source, arm.name
        ))
    };
    let bus = arm.bus.as_ref().ok_or_else(nothing)?;
    let port = arguments.port.clone().unwrap_or_else(|| PathBuf::from(&bus.port));
    if port.as_os_str() == EMULATED {
        return Err(nothing());
    }
    let opened = SerialPort::open(&port, bus.baud).map_err(|error| {
        CliError::Input(format!(
            "{}: {error}: is it plugged in, and may this user open it (on Debian: group dialout)?",
            port.display()
        ))
    })?;
    // A hand is slow, and nothing may be given up for one answer that was lost.
    let timing = Timing { baud: bus.baud, reply: bus.reply_timeout.max(Duration::from_millis(40)), retries: 5 };
    let mut master = Master::new(bus.protocol, opened, timing);
    for joint in &robot.joints {
        let Some(id) = joint.servo_id else { continue };
        // One answer may be lost or damaged on the way; three are not.
        let mut answers = [(0, 0); 3];
        for one in &mut answers {
            *one = master.count_answers(id).map_err(CliError::failed)?;
        }
        let is_silent = answers.iter().all(|&one| one == (0, 0));
        let is_shared = answers.iter().filter(|&&(whole, damaged)| whole > 1 || damaged > 0).count() > 1;
        if is_silent || is_shared {
            let what = if is_shared { "more than one servo answers" } else { "no servo answers" };
            return Err(CliError::Input(format!(
                "joint {}: {what} to id {id} on {}: look with `endplate servo scan`",
                joint.name,
                port.display()
            )));
        }
    }
    Ok(master)
}

#[cfg(not(feature = "serial"))]
fn open_bus(_: &JointArguments, _: &RobotSpec, _: &ArmSpec) -> Result<SimulatedBus, CliError> {
    Err(CliError::Input("servo buses need the feature `serial`: practise with --simulated".into()))
}

/// A hand that does what it is asked to.
fn simulated_hand(robot: &RobotSpec, bus: &SimulatedBus) -> impl FnMut(&mut SimulatedBus, Phase) -> bool + use<> {
    let travels: Vec<f64> = robot.joints.iter().map(|joint| joint.limits.upper_rad - joint.limits.lower_rad).collect();
    let middles = bus.encoders.clone();
    let mut step = 0u32;
    move |bus, phase| {
        step += 1;
        match phase {
            Phase::Sweep => {
                let swing = (f64::from(step) * 0.1).sin();
                for (index, encoder) in bus.encoders.iter_mut().enumerate() {
                    let half = travels[index] / 2.0 * 4096.0 / core::f64::consts::TAU;
                    *encoder = (middles[index] + (half * swing).round() as i32).rem_euclid(4096);
                }
                step > 80
            }
            Phase::Direction { joint } => {
                bus.encoders[joint] = (bus.encoders[joint] + 120).rem_euclid(4096);
                true
            }
            _ => true,
        }
    }
}

struct Job<'a> {
    arguments: &'a JointArguments,
    robot: &'a RobotSpec,
    plan: Vec<JointPlan>,
    target: Option<PathBuf>,
}

impl Job<'_> {
    fn run<B: CalibrationBus>(self, mut bus: B, hand: &mut dyn FnMut(&mut B, Phase) -> bool) -> Result<(), CliError> {
        if let Some(path) = &self.arguments.load {
            let name = path.display().to_string();
            let file = MotorCalibrations::from_json(&read_text(path)?, &name).map_err(CliError::input)?;
            refuse(&name, &against_robot(&file, self.robot))?;
            load(&mut bus, &file).map_err(CliError::failed)?;
            say!("loaded and read back: {} servos", file.iter().len());
            return Ok(());
        }
        let stop = StopRequest::listen().map_err(|error| CliError::Failed(format!("signal handlers: {error}")))?;
        let mut calibration =
            JointCalibration::start(bus, self.plan, self.arguments.direction).map_err(CliError::failed)?;
        let result = drive(&mut calibration, hand, &stop).and_then(|()| judge(self.robot, &calibration.file()));
        if let Err(error) = result {
            return Err(put_back(&mut calibration, error));
        }
        say!("{}", calibration.prompt());
        if let Some(path) = &self.target {
            // The servos hold it by now: without its file it is lost at the next check.
            write(path, calibration.file().to_json()).map_err(|error| put_back(&mut calibration, error))?;
            say!("written: {}", path.display());
        }
        Ok(())
    }
}

/// Makes the servos hold what they held before, and says so.
fn put_back<B: CalibrationBus>(calibration: &mut JointCalibration<B>, error: CliError) -> CliError {
    let said = match calibration.abort() {
        Ok(()) => format!("{error}\nthe servos hold what they held before"),
        Err(failure) => {
            let held: Vec<String> = calibration.before().map(|(joint, held)| format!("\n  {joint}: {held}")).collect();
            format!("{error}\nnot every servo could be put back ({failure}); they held before:{}", held.concat())
        }
    };
    match error {
        CliError::Refused(_) => CliError::Refused(said),
        CliError::Input(_) => CliError::Input(said),
        _ => CliError::Failed(said),
    }
}

/// Refuses a calibration that is not this robot's; a range that is not its limits is told.
fn judge(robot: &RobotSpec, file: &MotorCalibrations) -> Result<(), CliError> {
    let mut findings = against_robot(file, robot);
    for (index, joint) in robot.joints.iter().enumerate() {
        let finding = file.get(&joint.name).and_then(|motor| span(robot, index, motor, &Tolerances::default()));
        let Some(finding) = finding else { continue };
        if joint.servo.is_some_and(|servo| servo.travel_rad.is_some()) {
            findings.push(finding);
        } else {
            say!("look at this: {finding} (or its limits are narrower by choice: travel_rad says what it travels)");
        }
    }
    refuse("this calibration", &findings)
}

fn refuse(what: &str, findings: &[Finding]) -> Result<(), CliError> {
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(|finding| format!("{what}: {finding}")).collect();
    Err(CliError::Refused(lines.join("\n")))
}

fn plan(robot: &RobotSpec, arguments: &JointArguments) -> Result<Vec<JointPlan>, CliError> {
    robot
        .joints
        .iter()
        .enumerate()
        .map(|(index, joint)| {
            let practised = arguments.simulated.then(|| u8::try_from(index + 1).ok()).flatten();
            let is_full_turn = arguments.full_turn.contains(&joint.name);
            joint
                .servo_id
                .or(practised)
                .map(|id| JointPlan { name: joint.name.clone(), id, is_full_turn })
                .ok_or_else(|| CliError::Input(format!("{}: joint {} has no servo_id", robot.source, joint.name)))
        })
        .collect()
}

/// Shows prompts, polls, and confirms on a line of standard input, or when the simulated hand is done.
fn drive<B: CalibrationBus>(
    calibration: &mut JointCalibration<B>,
    hand: &mut dyn FnMut(&mut B, Phase) -> bool,
    stop: &StopRequest,
) -> Result<(), CliError> {
    let (sender, lines) = mpsc::channel();
    // Ends with the process: a thread that waits for a line cannot be woken.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let is_screen = std::io::stdout().is_terminal();
    while calibration.phase() != Phase::Done {
        let phase = calibration.phase();
        say!("{} (Enter confirms, q gives up)", calibration.prompt());
        let mut looks = 0u32;
        loop {
            let done = hand(calibration.bus_mut(), phase);
            calibration.poll().map_err(CliError::failed)?;
            if is_screen && phase == Phase::Sweep && looks.is_multiple_of(REDRAW) {
                show(calibration, looks > 0);
            }
            looks += 1;
            let confirmed = match lines.recv_timeout(POLL) {
                Ok(line) if line.trim() == "q" => return Err(CliError::Failed("given up".into())),
                Ok(_) => true,
                Err(mpsc::RecvTimeoutError::Timeout) => done,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(POLL);
                    done
                }
            };
            if stop.is_asked() {
                return Err(CliError::Failed(format!("given up ({})", stop.signal().unwrap_or("signal"))));
            }
            if !confirmed {
                continue;
            }
            if phase == Phase::Sweep {
                show(calibration, is_screen);
            }
            match calibration.confirm() {
                Ok(_) => break,
                Err(error @ JointCalibrationError::HardlyMoved { .. }) => say!("{error}"),
                Err(error) => return Err(CliError::failed(error)),
            }
        }
    }
    Ok(())
}

/// Smallest, present and largest count of every joint; over what was shown last where `again`.
fn show<B: CalibrationBus>(calibration: &JointCalibration<B>, again: bool) {
    let rows: Vec<String> = calibration
        .seen()
        .map(|(name, low, now, high)| format!("  {name:<16} {low:>5} {now:>5} {high:>5}\x1b[K"))
        .collect();
    if again {
        say_part!("\x1b[{}A", rows.len());
    }
    for row in rows {
        say!("{}", if std::io::stdout().is_terminal() { row } else { row.replace("\x1b[K", "") });
    }
}
