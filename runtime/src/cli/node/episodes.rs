//! Episodes of an `endplate sim` at the other end of the network: scene, instruction, verdict.

use super::super::report::Episode;
use core::time::Duration;
use endplate_hal::Instant;
use endplate_ros2::interface::{Empty, Message, Outcome, Service, Text, Trigger, decode, encode_into};
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Client, Endpoint, Transport, TransportError};
use std::sync::mpsc::{Receiver, channel};

/// Where the judge's verdict of each episode goes, one JSON object.
pub const OUTCOME_TOPIC: &str = "/endplate_sim/outcome";
/// Builds the next scene; the answer's message is one JSON object about it.
pub const NEXT_EPISODE: &str = "/endplate_sim/next_episode";
/// How long a new scene is looked at before the arm is enabled.
const SETTLE: Duration = Duration::from_millis(400);
/// The judge ends an episode after 20 s; later than this it is gone.
const PATIENCE: Duration = Duration::from_secs(25);

/// What the owner is to do next.
pub enum Next {
    /// Nothing yet.
    Wait,
    /// Tell the policy this.
    Instruct(String),
    /// Enable motion.
    Enable,
    /// End motion.
    Disable,
    /// All episodes are over.
    Done,
}

enum Phase {
    Ask,
    Settle { until: Instant },
    Run { begun: Instant },
    Stopping,
}

/// The episodes.
pub struct Episodes {
    client: Box<dyn Client>,
    verdicts: Receiver<String>,
    _endpoint: Box<dyn Endpoint>,
    left: u64,
    phase: Phase,
    current: Option<Episode>,
    done: Vec<Episode>,
    buffer: Vec<u8>,
    failures: u32,
}

impl Episodes {
    /// Reaches the simulated robot's judge.
    pub fn start(transport: &dyn Transport, count: u64) -> Result<Self, TransportError> {
        let (to_owner, verdicts) = channel();
        let endpoint = transport.subscribe(
            OUTCOME_TOPIC,
            Text::TYPE,
            Qos::DEFAULT,
            Box::new(move |bytes, _| {
                if let Ok(text) = decode::<Text>(bytes) {
                    let _ = to_owner.send(text.data.to_owned()); // the run may be over
                }
            }),
        )?;
        Ok(Self {
            client: transport.client(NEXT_EPISODE, Trigger::TYPE)?,
            verdicts,
            _endpoint: endpoint,
            left: count,
            phase: Phase::Ask,
            current: None,
            done: Vec::new(),
            buffer: Vec::new(),
            failures: 0,
        })
    }

    /// One look; `active` says whether the arm may move.
    pub fn look(&mut self, now: Instant, active: bool) -> Next {
        match self.phase {
            Phase::Ask if self.left == 0 => Next::Done,
            Phase::Ask => match self.ask() {
                Some(episode) => {
                    let instruction = episode.instruction.clone();
                    self.current = Some(episode);
                    self.phase = Phase::Settle { until: now.saturating_add(SETTLE) };
                    Next::Instruct(instruction)
                }
                None if self.failures > 20 => Next::Done,
                None => Next::Wait,
            },
            Phase::Settle { until } if now >= until => {
                while self.verdicts.try_recv().is_ok() {} // of an episode before
                self.phase = Phase::Run { begun: now };
                Next::Enable
            }
            Phase::Settle { .. } => Next::Wait,
            Phase::Run { begun } => {
                let took = now.duration_since(begun);
                let verdict = self.verdicts.try_recv().ok().and_then(|text| serde_json::from_str(&text).ok());
                let verdict: Option<serde_json::Value> = verdict;
                if verdict.is_none() && took < PATIENCE {
                    return Next::Wait;
                }
                if let Some(mut episode) = self.current.take() {
                    let outcome = verdict.as_ref().and_then(|verdict| verdict["outcome"].as_str());
                    episode.outcome = outcome.unwrap_or("failure").to_owned();
                    episode.duration_s =
                        verdict.as_ref().and_then(|v| v["duration_s"].as_f64()).unwrap_or(took.as_secs_f64());
                    remark!(
                        "episode {:>4}  seed {}  {:<28} {:<10} {:5.1} s",
                        self.done.len() + 1,
                        episode.seed,
                        episode.instruction,
                        episode.outcome,
                        episode.duration_s
                    );
                    self.done.push(episode);
                }
                self.left -= 1;
                self.phase = Phase::Stopping;
                Next::Disable
            }
            Phase::Stopping if !active => {
                self.phase = Phase::Ask;
                Next::Wait
            }
            Phase::Stopping => Next::Wait,
        }
    }

    /// What became of the episodes.
    pub fn finish(self) -> Vec<Episode> {
        self.done
    }

    fn ask(&mut self) -> Option<Episode> {
        let request = encode_into(&Empty, &mut self.buffer).ok()?;
        let answer = match self.client.call(request, Duration::from_millis(500)) {
            Ok(answer) => answer,
            Err(error) => {
                self.failures += 1;
                if self.failures % 5 == 1 {
                    remark!("episodes   {error}");
                }
                return None;
            }
        };
        let outcome: Outcome = decode(&answer).ok()?;
        let about: serde_json::Value = serde_json::from_str(outcome.message).ok()?;
        self.failures = 0;
        Some(Episode {
            seed: about["seed"].as_u64()?,
            instruction: about["instruction"].as_str()?.to_owned(),
            target: about["target"].as_str()?.to_owned(),
            outcome: String::new(),
            duration_s: 0.0,
        })
    }
}
