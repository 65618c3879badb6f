//! Orders to running threads: a robot is configured, activated, paused and stopped while its threads run.
//!
//! The lifecycle is changed on the control thread, between two periods, and the instruction on the inference thread, so
//! that no period is lost to an order. The control thread reads words and writes into a ring; only those who order lock.

use crate::control::{ControlLoop, LifecycleError};
use core::time::Duration;
use endplate_hal::Instant;
use endplate_policies::Epoch;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Set in an epoch while the robot stands still: no chunk is of it, so the arm decelerates and holds.
const STANDING: u64 = 1 << 62;

/// A change carried out on the control thread.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Unconfigured → inactive.
    Configure = 1,
    /// Inactive → active.
    Activate = 2,
    /// Active → inactive.
    Deactivate = 3,
    /// Leave a latched stop.
    ClearFault = 4,
}

impl Change {
    fn of(word: u8) -> Option<Self> {
        [Self::Configure, Self::Activate, Self::Deactivate, Self::ClearFault]
            .into_iter()
            .find(|change| *change as u8 == word)
    }

    /// Makes the change; whether there was something to change.
    fn carry_out(self, control: &mut ControlLoop, now: Instant, epoch: Epoch) -> Outcome {
        match self {
            Self::Configure => control.configure(now).map(|()| true),
            Self::Activate => control.activate(now, epoch).map(|()| true),
            Self::Deactivate => control.deactivate().map(|()| true),
            Self::ClearFault => control.clear_fault(now),
        }
    }
}

type Outcome = Result<bool, LifecycleError>;

/// Orders to running threads.
pub struct Orders {
    change: AtomicU8,
    standing: AtomicBool,
    estop: AtomicBool,
    instruction: Mutex<Option<String>>,
    has_instruction: AtomicBool,
    /// Bits of the factor by which the machine has become slower since the inference thread last looked.
    slowdown: AtomicU64,
    /// One who orders at a time waits here for what became of it.
    outcomes: Mutex<rtrb::Consumer<Outcome>>,
    /// The control thread's end until that thread starts.
    end: Mutex<Option<rtrb::Producer<Outcome>>>,
}

impl Default for Orders {
    fn default() -> Self {
        let (end, outcomes) = rtrb::RingBuffer::new(4);
        Self {
            change: AtomicU8::new(0),
            standing: AtomicBool::new(false),
            estop: AtomicBool::new(false),
            instruction: Mutex::new(None),
            has_instruction: AtomicBool::new(false),
            slowdown: AtomicU64::new(1f64.to_bits()),
            outcomes: Mutex::new(outcomes),
            end: Mutex::new(Some(end)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    /// Asks for a change and waits until the control thread has made it, at most `patience`; `None` when it has not.
    /// The flag of [`Change::ClearFault`] says whether a fault was left.
    pub fn change(&self, change: Change, patience: Duration) -> Option<Outcome> {
        let mut outcomes = lock(&self.outcomes);
        while outcomes.pop().is_ok() {}
        self.change.store(change as u8, Ordering::Release);
        let start = std::time::Instant::now();
        while start.elapsed() < patience {
            if let Ok(outcome) = outcomes.pop() {
                return Some(outcome);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.change.store(0, Ordering::Release);
        None
    }

    /// Whether no chunk is to be followed: the arm decelerates under its limits and holds.
    pub fn stand(&self, standing: bool) {
        self.standing.store(standing, Ordering::Release);
    }

    /// Whether the arm was told to stand.
    pub fn is_standing(&self) -> bool {
        self.standing.load(Ordering::Acquire)
    }

    /// Whether the e-stop is pressed.
    pub fn estop(&self, pressed: bool) {
        self.estop.store(pressed, Ordering::Release);
    }

    /// Another instruction; everything asked before belongs to the past.
    pub fn instruct(&self, instruction: &str) {
        *lock(&self.instruction) = Some(instruction.to_owned());
        self.has_instruction.store(true, Ordering::Release);
    }

    /// The machine takes `factor` times as long as before: the next inference is planned accordingly.
    pub fn slow_down(&self, factor: f64) {
        let more = |bits: u64| Some((f64::from_bits(bits) * factor).to_bits());
        // The closure always answers.
        let _ = self.slowdown.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// How many times longer everything takes than at the last call, for the inference thread.
    pub(super) fn take_slowdown(&self) -> Option<f64> {
        let factor = f64::from_bits(self.slowdown.swap(1f64.to_bits(), Ordering::AcqRel));
        (factor != 1.0).then_some(factor)
    }

    /// The instruction given since the last call, for the inference thread.
    pub(super) fn take_instruction(&self) -> Option<String> {
        let is_new = self.has_instruction.swap(false, Ordering::AcqRel);
        is_new.then(|| lock(&self.instruction).take()).flatten()
    }

    /// The control thread's end; call it before the first period. `None` when another run has it.
    pub fn end(&self) -> Option<OrdersEnd<'_>> {
        let outcomes = lock(&self.end).take()?;
        Some(OrdersEnd { orders: self, outcomes: Some(outcomes) })
    }
}

/// The control thread's end of [`Orders`]. Given back when it is dropped.
///
/// # Real-time
/// Neither allocates, locks nor waits between creation and drop.
pub struct OrdersEnd<'a> {
    orders: &'a Orders,
    outcomes: Option<rtrb::Producer<Outcome>>,
}

impl OrdersEnd<'_> {
    /// The epoch to work in: `epoch`, or while standing one that no chunk is of.
    pub(super) fn epoch(&self, epoch: Epoch) -> Epoch {
        if self.orders.is_standing() { Epoch(epoch.0 | STANDING) } else { epoch }
    }

    pub(super) fn estop(&self) -> bool {
        self.orders.estop.load(Ordering::Acquire)
    }

    /// Carries out the change asked for, if any.
    pub(super) fn carry_out(&mut self, control: &mut ControlLoop, now: Instant, epoch: Epoch) {
        let Some(change) = Change::of(self.orders.change.load(Ordering::Acquire)) else { return };
        self.orders.change.store(0, Ordering::Release);
        let outcome = change.carry_out(control, now, epoch);
        if let Some(outcomes) = &mut self.outcomes {
            // Whoever asked has gone when there is no room.
            let _ = outcomes.push(outcome);
        }
    }
}

impl Drop for OrdersEnd<'_> {
    fn drop(&mut self) {
        *lock(&self.orders.end) = self.outcomes.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdowns_gather_until_they_are_taken() {
        let orders = Orders::default();
        assert_eq!(orders.take_slowdown(), None);
        orders.slow_down(2.0);
        orders.slow_down(1.5);
        assert_eq!(orders.take_slowdown(), Some(3.0));
        assert_eq!(orders.take_slowdown(), None);
    }

    #[test]
    fn one_run_at_a_time_takes_orders_and_an_order_nobody_carries_out_is_withdrawn() {
        let orders = Orders::default();
        let end = orders.end();
        assert!(end.is_some() && orders.end().is_none());
        drop(end);
        let end = orders.end().unwrap();
        assert_eq!(orders.change(Change::Activate, Duration::from_millis(5)), None);
        assert_eq!(end.orders.change.load(Ordering::Acquire), 0);
        assert_eq!(end.epoch(Epoch(7)), Epoch(7));
        orders.stand(true);
        assert!(end.epoch(Epoch(7)) > Epoch(7) && orders.is_standing());
    }
}
