//! What a run shows while it runs: one screen on a terminal, plain lines elsewhere.

use endplate_runtime::{Event, LadderCounts, Tick};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// The lines of the screen.
pub struct View {
    screen: Option<Screen>,
    is_quiet: bool,
}

struct Screen {
    all: MultiProgress,
    episode: ProgressBar,
    ladder: ProgressBar,
    joints: ProgressBar,
}

impl View {
    /// A screen when standard error is a terminal.
    pub fn new(episodes: u64) -> Self {
        let screen = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let line = |template: &str, length| {
                let bar = all.add(ProgressBar::new(length));
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar
            };
            Screen {
                episode: line("{bar:20.green} {pos}/{len} episodes  {msg}", episodes),
                ladder: line("{msg}", 1),
                joints: line("{msg}", 1),
                all,
            }
        });
        Self { screen, is_quiet: false }
    }

    /// Plain lines, also on a terminal.
    pub fn plain() -> Self {
        Self { screen: None, is_quiet: false }
    }

    /// A view that shows nothing: whoever asked for it counts for itself.
    pub fn quiet() -> Self {
        Self { screen: None, is_quiet: true }
    }

    /// An episode begins.
    pub fn begin(&self, index: u64, instruction: &str) {
        if let Some(screen) = &self.screen {
            screen.episode.set_position(index);
            screen.episode.set_message(format!("“{instruction}”"));
        }
    }

    /// The state of a running episode.
    pub fn show(&self, seconds: f64, ladder: &LadderCounts, tick: Option<&Tick>, successes: usize) {
        let (Some(screen), Some(tick)) = (&self.screen, tick) else { return };
        let LadderCounts { fresh, continued, decelerated, held, stopped, .. } = ladder;
        screen.ladder.set_message(format!(
            "{seconds:5.1} s  now {:?}  (fresh {fresh}, continued {continued}, decelerated {decelerated}, held {held}, \
             stopped {stopped})  {successes} successes",
            tick.rung
        ));
        let joints: Vec<String> = tick.command.position_rad().iter().map(|angle| format!("{angle:6.2}")).collect();
        screen.joints.set_message(format!("joints, rad  {}", joints.join(" ")));
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.screen {
            // A terminal that went away takes the line with it.
            Some(screen) => drop(screen.all.println(text)),
            None if self.is_quiet => {}
            None => say!("{text}"),
        }
    }

    /// A step down the ladder, for the log.
    pub fn event(&self, seconds: f64, event: &Event) {
        if self.is_quiet {
            return;
        }
        let text = event_text(seconds, event);
        match &self.screen {
            Some(screen) => drop(screen.all.println(text)),
            None => remark!("{text}"),
        }
    }

    /// Clears the screen's lines.
    pub fn finish(&self) {
        if let Some(screen) = &self.screen {
            for bar in [&screen.episode, &screen.ladder, &screen.joints] {
                bar.finish_and_clear();
            }
        }
    }
}

/// A step down the ladder as one line.
pub fn event_text(seconds: f64, event: &Event) -> String {
    let joint = event.joint.map(|joint| format!(", joint {joint}")).unwrap_or_default();
    format!("{seconds:8.2} s  {} → {:?}{joint}", event.cause.name(), event.rung)
}
