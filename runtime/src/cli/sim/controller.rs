//! The controllers of ros2_control as far as a robot's users depend on them: what is held, what ends, what is refused.

use core::time::Duration;
use endplate_hal::Instant;
use endplate_ros2::interface::{Float64MultiArray, JointJog, JointTrajectory, decode};
use endplate_ros2::node::OutputKind;
use std::collections::VecDeque;

/// MoveIt Servo's `incoming_command_timeout`.
const JOG_TIMEOUT: Duration = Duration::from_millis(100);
/// How far the goal of a turning joint gets ahead of it, rad: a drive that is held back does not store the turns.
const LEAD_RAD: f64 = 0.2;

/// Velocities that are followed.
struct Turning {
    /// `[D]`.
    rad_s: Vec<f64>,
    /// Up to when.
    until: Option<Instant>,
}

/// Commands a controller keeps for its next period.
const ROOM: usize = 8;

/// Follows commands; goals are `[D]` rad in the order of the robot description.
pub struct Controller {
    kind: OutputKind,
    joints: Vec<String>,
    /// Forward commands not yet played.
    queue: VecDeque<Vec<f64>>,
    /// Points of the trajectory with the instants they are due at, where it began.
    trajectory: VecDeque<(Instant, Vec<f64>)>,
    from: (Instant, Vec<f64>),
    goal: Option<Vec<f64>>,
    turning: Option<Turning>,
    /// Up to when the goal has been turned.
    turned: Instant,
}

impl Controller {
    /// A controller at rest.
    pub fn new(kind: OutputKind, joints: Vec<String>) -> Self {
        let from = (Instant::ZERO, Vec::new());
        let (queue, trajectory) = (VecDeque::new(), VecDeque::new());
        Self { kind, joints, queue, trajectory, from, goal: None, turning: None, turned: Instant::ZERO }
    }

    /// Nothing is commanded any more.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.trajectory.clear();
        (self.goal, self.turning) = (None, None);
    }

    /// Takes a command; `at_rad` is where the joints are commanded to now.
    ///
    /// # Errors
    /// Why the command is refused; nothing changes then.
    pub fn take(&mut self, bytes: &[u8], now: Instant, at_rad: &[f64]) -> Result<(), String> {
        match self.kind {
            OutputKind::ForwardPosition => {
                let message: Float64MultiArray = decode(bytes).map_err(|error| error.to_string())?;
                let values: Vec<f64> = message.data.iter().collect();
                self.check(&values)?;
                if self.queue.len() == ROOM {
                    self.queue.pop_front();
                }
                self.queue.push_back(values);
            }
            OutputKind::ForwardVelocity => {
                let message: Float64MultiArray = decode(bytes).map_err(|error| error.to_string())?;
                let rad_s: Vec<f64> = message.data.iter().collect();
                self.check(&rad_s)?;
                self.turn(Turning { rad_s, until: None }, now, at_rad);
            }
            OutputKind::JointJog => {
                let message: JointJog = decode(bytes).map_err(|error| error.to_string())?;
                let names: Vec<&str> = message.joint_names.iter().collect();
                let given: Vec<f64> = message.velocities.iter().collect();
                if given.len() != names.len() {
                    return Err(format!("{} velocities for {} names", given.len(), names.len()));
                }
                let mut rad_s = vec![0.0; self.joints.len()];
                for (name, value) in names.iter().zip(given) {
                    let place = self.joints.iter().position(|joint| joint == name);
                    rad_s[place.ok_or_else(|| format!("there is no joint {name}"))?] = value;
                }
                self.check(&rad_s)?;
                self.turn(Turning { rad_s, until: Some(now.saturating_add(JOG_TIMEOUT)) }, now, at_rad);
            }
            OutputKind::JointTrajectory => {
                let message: JointTrajectory = decode(bytes).map_err(|error| error.to_string())?;
                let mut points = VecDeque::new();
                let names: Vec<&str> = message.joint_names.iter().collect();
                let mut last = None;
                for point in message.points.iter() {
                    let due = point.time_from_start.to_span().ok_or("time_from_start is no span")?;
                    if last.is_some_and(|last| due <= last) {
                        return Err("time_from_start does not grow from point to point".to_owned());
                    }
                    last = Some(due);
                    let given: Vec<f64> = point.positions.iter().collect();
                    let mut ordered = Vec::with_capacity(self.joints.len());
                    for joint in &self.joints {
                        let place = names.iter().position(|name| name == joint);
                        let value = place.and_then(|place| given.get(place));
                        ordered.push(*value.ok_or_else(|| format!("joint {joint} has no position"))?);
                    }
                    self.check(&ordered)?;
                    points.push_back((now.saturating_add(due), ordered));
                }
                self.from = (now, at_rad.to_vec());
                self.trajectory = points;
                // An empty trajectory ends the one being followed: hold here.
                self.goal = Some(at_rad.to_vec());
            }
        }
        Ok(())
    }

    fn turn(&mut self, turning: Turning, now: Instant, at_rad: &[f64]) {
        if self.goal.is_none() {
            (self.goal, self.turned) = (Some(at_rad.to_vec()), now);
        }
        self.turning = Some(turning);
    }

    /// Turns the goal as commanded up to `now`.
    fn turn_on(&mut self, now: Instant, measured_rad: &[f64]) {
        let (Some(Turning { rad_s, until }), Some(goal)) = (&self.turning, &mut self.goal) else { return };
        let span = until.map_or(now, |until| until.min(now)).duration_since(self.turned).as_secs_f64();
        self.turned = now;
        for ((goal, rate), measured) in goal.iter_mut().zip(rad_s).zip(measured_rad) {
            let turned = *goal + rate * span;
            // What is ahead already, as after a fall, is not pulled back.
            *goal = turned.clamp((measured - LEAD_RAD).min(*goal), (measured + LEAD_RAD).max(*goal));
        }
    }

    fn check(&self, values: &[f64]) -> Result<(), String> {
        let needed = self.joints.len();
        if values.len() != needed {
            return Err(format!("{} values for {needed} joints", values.len()));
        }
        match values.iter().zip(&self.joints).find(|(value, _)| !value.is_finite()) {
            Some((value, joint)) => Err(format!("joint {joint} is {value}")),
            None => Ok(()),
        }
    }

    /// The goals of the period that ends at `now`, in order: none before the first command, else at least one.
    /// `measured_rad` is where the joints are.
    pub fn goals(&mut self, now: Instant, measured_rad: &[f64]) -> Vec<Vec<f64>> {
        self.turn_on(now, measured_rad);
        let mut goals: Vec<Vec<f64>> = self.queue.drain(..).collect();
        while let Some((due, point)) = self.trajectory.front() {
            if *due > now {
                let (start, from) = &self.from;
                let whole = due.duration_since(*start).max(Duration::from_nanos(1)).as_secs_f64();
                let share = (now.duration_since(*start).as_secs_f64() / whole).clamp(0.0, 1.0);
                goals.push(from.iter().zip(point).map(|(from, to)| from + (to - from) * share).collect());
                break;
            }
            self.from = (*due, point.clone());
            self.goal = self.trajectory.pop_front().map(|(_, point)| point);
        }
        match (goals.last(), &self.goal) {
            (Some(last), _) => self.goal = Some(last.clone()),
            (None, Some(goal)) => goals.push(goal.clone()),
            (None, None) => {}
        }
        goals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_ros2::interface::{Duration as Span, JointTrajectoryPoint, Wire, encode};

    fn bytes<'a>(message: &impl Wire<'a>) -> Vec<u8> {
        let mut buffer = vec![0; 1024];
        let written = encode(message, &mut buffer).unwrap();
        buffer.truncate(written);
        buffer
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_forward_controller_holds_for_ever_and_refuses_what_is_not_a_command() {
        let mut controller = Controller::new(OutputKind::ForwardPosition, vec!["a".into(), "b".into()]);
        assert!(controller.goals(at(0), &[0.0; 2]).is_empty());
        let command = |data: &[f64]| bytes(&Float64MultiArray { data: data.into(), ..Default::default() });
        controller.take(&command(&[1.0, 2.0]), at(1), &[0.0; 2]).unwrap();
        controller.take(&command(&[1.5, 2.5]), at(1), &[0.0; 2]).unwrap();
        assert_eq!(controller.goals(at(2), &[0.0; 2]), [[1.0, 2.0], [1.5, 2.5]]);
        assert!(controller.take(&command(&[1.0]), at(3), &[0.0; 2]).unwrap_err().contains("1 values for 2 joints"));
        assert!(controller.take(&command(&[1.0, f64::NAN]), at(3), &[0.0; 2]).unwrap_err().contains("joint b is NaN"));
        assert_eq!(controller.goals(at(3_600_000), &[0.0; 2]), [[1.5, 2.5]]);
    }

    #[test]
    fn a_trajectory_is_interpolated_and_ends() {
        let mut controller = Controller::new(OutputKind::JointTrajectory, vec!["a".into(), "b".into()]);
        let point = |positions, millis| JointTrajectoryPoint {
            positions,
            time_from_start: Span::from_span(Duration::from_millis(millis)),
            ..Default::default()
        };
        let points = [point((&[2.0, 1.0]).into(), 100), point((&[4.0, 1.0]).into(), 200)];
        let names = ["b", "a"];
        let message = JointTrajectory { joint_names: (&names).into(), points: (&points).into(), ..Default::default() };
        controller.take(&bytes(&message), at(1000), &[0.0, 0.0]).unwrap();
        assert_eq!(controller.goals(at(1050), &[0.0; 2]), [[0.5, 1.0]]);
        assert_eq!(controller.goals(at(1150), &[0.0; 2]), [[1.0, 3.0]]);
        assert_eq!(controller.goals(at(9000), &[0.0; 2]), [[1.0, 4.0]]);
        controller.take(&bytes(&JointTrajectory::default()), at(9001), &[0.25, 0.5]).unwrap();
        assert_eq!(controller.goals(at(9002), &[0.0; 2]), [[0.25, 0.5]], "an empty trajectory holds here");
        let backwards = [point((&[2.0, 1.0]).into(), 100), point((&[4.0, 1.0]).into(), 100)];
        let message = JointTrajectory { points: (&backwards).into(), ..message };
        assert!(controller.take(&bytes(&message), at(1), &[0.0; 2]).unwrap_err().contains("does not grow"));
    }

    #[test]
    fn velocities_turn_joints_for_ever_and_a_jog_for_a_tenth_of_a_second() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let mut velocity = Controller::new(OutputKind::ForwardVelocity, names());
        let command = |data: &[f64]| bytes(&Float64MultiArray { data: data.into(), ..Default::default() });
        assert!(velocity.goals(at(990), &[0.0; 2]).is_empty());
        velocity.take(&command(&[1.0, -2.0]), at(1000), &[0.5, 0.5]).unwrap();
        let turned = |goals: Vec<Vec<f64>>, wanted: [f64; 2]| {
            assert_eq!(goals.len(), 1);
            assert!(goals[0].iter().zip(wanted).all(|(goal, wanted)| (goal - wanted).abs() < 1e-12), "{goals:?}");
        };
        turned(velocity.goals(at(1010), &[0.5, 0.5]), [0.51, 0.48]);
        turned(velocity.goals(at(1050), &[0.5, 0.5]), [0.55, 0.4]);
        turned(velocity.goals(at(9000), &[0.5, 0.5]), [0.7, 0.3]);
        assert!(velocity.take(&command(&[1.0, f64::INFINITY]), at(9000), &[0.0; 2]).is_err());
        velocity.take(&command(&[0.0, 0.0]), at(9000), &[0.0; 2]).unwrap();
        turned(velocity.goals(at(9010), &[0.5, 0.5]), [0.7, 0.3]);

        let mut jog = Controller::new(OutputKind::JointJog, names());
        let (name, rate) = (["b"], [1.0]);
        let message = JointJog { joint_names: (&name).into(), velocities: (&rate).into(), ..Default::default() };
        jog.take(&bytes(&message), at(1000), &[0.0, 0.0]).unwrap();
        turned(jog.goals(at(1060), &[0.0; 2]), [0.0, 0.06]);
        turned(jog.goals(at(5000), &[0.0; 2]), [0.0, 0.1]);
        turned(jog.goals(at(5010), &[0.0; 2]), [0.0, 0.1]);
        let foreign = JointJog { joint_names: (&["c"]).into(), ..message };
        assert!(jog.take(&bytes(&foreign), at(1), &[0.0; 2]).unwrap_err().contains("no joint c"));
        let short = JointJog { velocities: Default::default(), ..message };
        assert!(jog.take(&bytes(&short), at(1), &[0.0; 2]).unwrap_err().contains("0 velocities for 1"));
    }
}
