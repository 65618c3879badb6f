//! When the next chunk is asked for.

use super::track::Track;
use core::fmt;
use core::time::Duration;
use endplate_hal::MotionTime;

/// When the next chunk is asked for. Without a chunk to play it is asked for at once, whatever the trigger.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// When the bundle's `execute_rows` have been executed.
    Executed,
    /// When at most so many rows are left.
    RowsLeft(usize),
    /// When the rows left last at most so long.
    TimeLeft(Duration),
    /// As soon as the one before has been answered.
    Every,
    /// As `Every`, but not before the motion has come a row further than the chunk being played was asked at.
    EachRow,
}

impl Trigger {
    /// Reads `executed`, `every`, `each_row`, `N_rows` or `Nms`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(rows) = text.strip_suffix("_rows") {
            return rows.parse().ok().map(Self::RowsLeft);
        }
        if let Some(millis) = text.strip_suffix("ms") {
            return millis
                .parse()
                .ok()
                .filter(|millis| *millis <= 60_000)
                .map(|ms| Self::TimeLeft(Duration::from_millis(ms)));
        }
        match text {
            "executed" => Some(Self::Executed),
            "every" => Some(Self::Every),
            "each_row" => Some(Self::EachRow),
            _ => None,
        }
    }

    /// Whether the next chunk is due while `track` is played.
    pub(crate) fn is_due(self, track: &Track, execute_rows: usize, motion: MotionTime) -> bool {
        let row = track.row_at(motion);
        let left = track.last_row() - row;
        match self {
            Self::Executed => row >= execute_rows as f64,
            Self::RowsLeft(rows) => left <= rows as f64,
            Self::TimeLeft(span) => left * track.period().as_secs_f64() <= span.as_secs_f64(),
            Self::Every => true,
            Self::EachRow => row >= 1.0,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executed => f.write_str("executed"),
            Self::RowsLeft(rows) => write!(f, "{rows}_rows"),
            Self::TimeLeft(span) => write!(f, "{}ms", span.as_millis()),
            Self::Every => f.write_str("every"),
            Self::EachRow => f.write_str("each_row"),
        }
    }
}
