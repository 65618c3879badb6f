//! The controllers of ros2_control as far as a robot's users depend on them: what is held, what ends, what is refused.

use clap::ValueEnum;
use core::time::Duration;
use endplate_hal::Instant;
use endplate_ros2::interface::{Float64MultiArray, JointTrajectory, decode};
use std::collections::VecDeque;

/// A controller.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ControllerName {
    /// forward_command_controller on positions: holds the last command for ever.
    #[default]
    ForwardPosition,
    /// joint_trajectory_controller: follows a trajectory to its end and holds there.
    JointTrajectory,
}

impl ControllerName {
    /// Its topic.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::ForwardPosition => "/position_controller/commands",
            Self::JointTrajectory => "/joint_trajectory_controller/joint_trajectory",
        }
    }
}

/// Commands a controller keeps for its next period.
const ROOM: usize = 8;

/// Follows commands; goals are `[D]` rad in the order of the robot description.
pub struct Controller {
    name: ControllerName,
    joints: Vec<String>,
    /// Forward commands not yet played.
    queue: VecDeque<Vec<f64>>,
    /// Points of the trajectory with the instants they are due at, where it began.
    trajectory: VecDeque<(Instant, Vec<f64>)>,
    from: (Instant, Vec<f64>),
    goal: Option<Vec<f64>>,
}

impl Controller {
    /// A controller at rest.
    pub fn new(name: ControllerName, joints: Vec<String>) -> Self {
        let from = (Instant::ZERO, Vec::new());
        Self { name, joints, queue: VecDeque::new(), trajectory: VecDeque::new(), from, goal: None }
    }

    /// Nothing is commanded any more.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.trajectory.clear();
        self.goal = None;
    }

    /// Takes a command; `at_rad` is where the joints are commanded to now.
    ///
    /// # Errors
    /// Why the command is refused; nothing changes then.
    pub fn take(&mut self, bytes: &[u8], now: Instant, at_rad: &[f64]) -> Result<(), String> {
        match self.name {
            ControllerName::ForwardPosition => {
                let message: Float64MultiArray = decode(bytes).map_err(|error| error.to_string())?;
                let values: Vec<f64> = message.data.iter().collect();
                self.check(&values)?;
                if self.queue.len() == ROOM {
                    self.queue.pop_front();
                }
                self.queue.push_back(values);
            }
            ControllerName::JointTrajectory => {
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

    /// The goals of this period, in order: none before the first command, else at least one.
    pub fn goals(&mut self, now: Instant) -> Vec<Vec<f64>> {
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
        let mut controller = Controller::new(ControllerName::ForwardPosition, vec!["a".into(), "b".into()]);
        assert!(controller.goals(at(0)).is_empty());
        let command = |data: &[f64]| bytes(&Float64MultiArray { data: data.into(), ..Default::default() });
        controller.take(&command(&[1.0, 2.0]), at(1), &[0.0; 2]).unwrap();
        controller.take(&command(&[1.5, 2.5]), at(1), &[0.0; 2]).unwrap();
        assert_eq!(controller.goals(at(2)), [[1.0, 2.0], [1.5, 2.5]]);
        assert!(controller.take(&command(&[1.0]), at(3), &[0.0; 2]).unwrap_err().contains("1 values for 2 joints"));
        assert!(controller.take(&command(&[1.0, f64::NAN]), at(3), &[0.0; 2]).unwrap_err().contains("joint b is NaN"));
        assert_eq!(controller.goals(at(3_600_000)), [[1.5, 2.5]]);
    }

    #[test]
    fn a_trajectory_is_interpolated_and_ends() {
        let mut controller = Controller::new(ControllerName::JointTrajectory, vec!["a".into(), "b".into()]);
        let point = |positions, millis| JointTrajectoryPoint {
            positions,
            time_from_start: Span::from_span(Duration::from_millis(millis)),
            ..Default::default()
        };
        let points = [point((&[2.0, 1.0]).into(), 100), point((&[4.0, 1.0]).into(), 200)];
        let names = ["b", "a"];
        let message = JointTrajectory { joint_names: (&names).into(), points: (&points).into(), ..Default::default() };
        controller.take(&bytes(&message), at(1000), &[0.0, 0.0]).unwrap();
        assert_eq!(controller.goals(at(1050)), [[0.5, 1.0]]);
        assert_eq!(controller.goals(at(1150)), [[1.0, 3.0]]);
        assert_eq!(controller.goals(at(9000)), [[1.0, 4.0]]);
        controller.take(&bytes(&JointTrajectory::default()), at(9001), &[0.25, 0.5]).unwrap();
        assert_eq!(controller.goals(at(9002)), [[0.25, 0.5]], "an empty trajectory holds here");
        let backwards = [point((&[2.0, 1.0]).into(), 100), point((&[4.0, 1.0]).into(), 100)];
        let message = JointTrajectory { points: (&backwards).into(), ..message };
        assert!(controller.take(&bytes(&message), at(1), &[0.0; 2]).unwrap_err().contains("does not grow"));
    }
}
