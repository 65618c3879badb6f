//! The task in words and its judge: "pick up the green cube", and whether it was.

use std::time::Duration;

use crate::model::CUBES;
use crate::physics::CubePose;
use crate::rng::Random;

/// Colour names; the index is the target's number everywhere.
pub const COLOURS: [&str; CUBES] = ["red", "green", "blue"];

/// Sentence templates; `{colour}` is replaced by the colour's name.
pub const PHRASES: [&str; 6] = [
    "pick up the {colour} cube",
    "grab the {colour} cube",
    "lift the {colour} block",
    "take the {colour} cube",
    "raise the {colour} block",
    "get the {colour} cube",
];

/// Time within which the task must be done.
pub const TIME_LIMIT: Duration = Duration::from_secs(20);
/// The same when the named cube moves.
pub const MOVING_TIME_LIMIT: Duration = Duration::from_secs(12);
/// How long the cube must stay up.
pub const HOLD: Duration = Duration::from_secs(1);
/// How far above its start the named cube must be, m; another cube so high is a wrong pick.
pub const LIFTED_M: f64 = 0.05;
/// Another cube raised further than this spoils a success, m.
pub const DISTURBED_M: f64 = 0.02;

/// Sentence `phrase` (modulo their number) about the cube `target` (modulo their number).
pub fn sentence(phrase: usize, target: usize) -> String {
    PHRASES[phrase % PHRASES.len()].replace("{colour}", COLOURS[target % CUBES])
}

/// The sentence of an episode: its phrasing is drawn from the seed.
pub fn instruction(seed: u64, target: usize) -> String {
    const STREAM: u64 = 21;
    sentence(Random::new(seed, STREAM).index(PHRASES.len()), target)
}

/// Target of episode number `index`: colours in turn.
pub fn target_of(index: u64) -> usize {
    (index % CUBES as u64) as usize
}

/// How an episode ended.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Outcome {
    /// The named cube was at least 5 cm up for 1 s and no other was lifted by more than 2 cm.
    Success,
    /// Another cube was lifted by 5 cm or more.
    WrongPick,
    /// Neither within the time limit.
    Failure,
}

impl Outcome {
    /// `success`, `wrong_pick` or `failure`: the word used in machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::WrongPick => "wrong_pick",
            Self::Failure => "failure",
        }
    }
}

/// Watches the cubes of one episode.
#[derive(Clone, Debug)]
pub struct Judge {
    target: usize,
    limit: Duration,
    start_height_m: [f64; CUBES],
    up_since: Option<Duration>,
    was_disturbed: bool,
    lifted: Option<usize>,
    outcome: Option<Outcome>,
}

impl Judge {
    /// A judge for the cube `target` (modulo their number), with the cubes as the episode starts.
    pub fn new(target: usize, cubes: &[CubePose; CUBES]) -> Self {
        Self::with_limit(target, cubes, TIME_LIMIT)
    }

    /// The same with another time limit.
    pub fn with_limit(target: usize, cubes: &[CubePose; CUBES], limit: Duration) -> Self {
        Self {
            limit,
            target: target % CUBES,
            start_height_m: cubes.map(|cube| cube.position_m[2]),
            up_since: None,
            was_disturbed: false,
            lifted: None,
            outcome: None,
        }
    }

    /// Looks at the cubes `time` after the start; `Some` once the episode is decided, and the same
    /// from then on. Call it at least every 0.1 s with rising times.
    pub fn watch(&mut self, time: Duration, cubes: &[CubePose; CUBES]) -> Option<Outcome> {
        if self.outcome.is_some() {
            return self.outcome;
        }
        let lift = |cube: usize| cubes[cube].position_m[2] - self.start_height_m[cube];
        let highest_other = (0..CUBES).filter(|&cube| cube != self.target).map(lift).fold(f64::NEG_INFINITY, f64::max);
        self.was_disturbed |= highest_other > DISTURBED_M;
        self.lifted = self.lifted.or_else(|| (0..CUBES).find(|&cube| lift(cube) >= LIFTED_M));
        if lift(self.target) >= LIFTED_M {
            self.up_since.get_or_insert(time);
        } else {
            self.up_since = None;
        }
        let held = self.up_since.is_some_and(|since| time.saturating_sub(since) >= HOLD);
        self.outcome = if highest_other >= LIFTED_M {
            Some(Outcome::WrongPick)
        } else if held && !self.was_disturbed && time <= self.limit {
            Some(Outcome::Success)
        } else if time >= self.limit {
            Some(Outcome::Failure)
        } else {
            None
        };
        self.outcome
    }

    /// The first cube that was seen 5 cm up.
    pub fn lifted(&self) -> Option<usize> {
        self.lifted
    }

    /// The cube to be lifted.
    pub fn target(&self) -> usize {
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(heights: [f64; CUBES]) -> [CubePose; CUBES] {
        heights.map(|z| CubePose { position_m: [0.2, 0.0, z], yaw_rad: 0.0 })
    }

    fn run(target: usize, heights: impl Fn(f64) -> [f64; CUBES]) -> (Outcome, f64) {
        let mut judge = Judge::new(target, &at([0.015; CUBES]));
        for tick in 0.. {
            let time = f64::from(tick) * 0.1;
            if let Some(outcome) = judge.watch(Duration::from_secs_f64(time), &at(heights(time))) {
                return (outcome, time);
            }
        }
        unreachable!()
    }

    #[test]
    fn success_is_one_second_up() {
        let (outcome, time) = run(1, |t| [0.015, if t >= 3.0 { 0.07 } else { 0.015 }, 0.015]);
        assert_eq!(outcome, Outcome::Success);
        assert!((time - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_cube_dropped_too_early_is_a_failure_at_the_limit() {
        let up = |t: f64| (3.0..3.8).contains(&t);
        let (outcome, time) = run(0, |t| [if up(t) { 0.1 } else { 0.015 }, 0.015, 0.015]);
        assert_eq!((outcome, time.round()), (Outcome::Failure, 20.0));
    }

    #[test]
    fn another_cube_in_the_hand_is_a_wrong_pick() {
        let (outcome, _) = run(2, |t| [0.015, 0.015 + 0.01 * t, 0.015]);
        assert_eq!(outcome, Outcome::WrongPick);
        let mut judge = Judge::new(2, &at([0.015; CUBES]));
        assert_eq!((judge.watch(Duration::ZERO, &at([0.015; CUBES])), judge.lifted()), (None, None));
        judge.watch(Duration::from_millis(100), &at([0.015, 0.066, 0.015]));
        assert_eq!(judge.lifted(), Some(1));
    }

    #[test]
    fn disturbing_another_cube_spoils_the_success() {
        let (outcome, _) = run(0, |t| [0.08, if t == 0.5 { 0.037 } else { 0.015 }, 0.015]);
        assert_eq!(outcome, Outcome::Failure);
    }

    #[test]
    fn sentences_name_their_colour() {
        for seed in 0..50 {
            let target = target_of(seed);
            let text = instruction(seed, target);
            assert!(text.contains(COLOURS[target]) && !text.contains('{'));
        }
    }
}
