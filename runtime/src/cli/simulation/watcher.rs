//! What becomes of an episode.

use crate::cli::frames::FrameSaver;
use crate::cli::view::View;
use core::time::Duration;
use endplate_hal::Instant;
use endplate_runtime::drive::Flow;
use endplate_runtime::{Event, Tick};
use endplate_sim::robot::SimRobot;
use endplate_sim::task::{Judge, Outcome};

/// Judges one episode and shows what happens.
pub(super) struct Watcher {
    pub(super) judge: Judge,
    begin: Instant,
    pub(super) outcome: Option<Outcome>,
    /// Of the episodes before.
    successes: usize,
}

impl Watcher {
    pub(super) fn new(target: usize, limit: Duration, world: &SimRobot, begin: Instant, successes: usize) -> Self {
        Self { judge: Judge::with_limit(target, &world.cubes(), limit), begin, outcome: None, successes }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn look(
        &mut self,
        now: Instant,
        start: Instant,
        tick: &Tick,
        world: &SimRobot,
        view: &View,
        events: &mut rtrb::Consumer<Event>,
        saver: Option<&mut FrameSaver>,
        episode: u64,
    ) -> Flow {
        let seconds = now.duration_since(start).as_secs_f64();
        while let Ok(event) = events.pop() {
            view.event(event.now.duration_since(start).as_secs_f64(), &event);
        }
        view.show(seconds, &tick.ladder, Some(tick), self.successes);
        if let Some(saver) = saver {
            for failure in saver.save(episode, now) {
                view.line(&failure);
            }
        }
        self.outcome = self.judge.watch(now.duration_since(self.begin), &world.cubes());
        if self.outcome.is_some() { Flow::Stop } else { Flow::Continue }
    }
}
