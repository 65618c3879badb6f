//! Crossing threads with the latest value: a triple buffer.
//!
//! One writer, one reader, three slots. The writer fills its own slot and swaps it for the middle one; the reader swaps
//! the middle one for its own when it holds something new. Neither ever waits for the other, and both see whole values.
//! `loom` models beside the code check every interleaving: `runtime/loom/Cargo.toml` is this file as a crate
//! of its own, and has the command.

#[cfg(not(loom))]
use cell::UnsafeCell;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU8, Ordering};
#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::Arc;

/// The cell of the standard library with the methods of loom's, which checks every access it sees.
#[cfg(not(loom))]
mod cell {
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

/// Set in the middle index while the slot holds a value the reader has not taken.
const NEW: u8 = 4;
const INDEX: u8 = 3;

struct Shared<T> {
    slots: [UnsafeCell<T>; 3],
    middle: AtomicU8,
}

// SAFETY: a slot is reached only through the index its holder owns: the writer's, the reader's or the middle one, and
// indices change hands only by an atomic swap of `middle` with acquire-release ordering. So no two threads ever reach
// one slot at once, and what was written before a swap is seen after it. `T: Send` is needed to move values across.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

/// The writing end.
pub struct Writer<T> {
    shared: Arc<Shared<T>>,
    own: u8,
}

/// The reading end.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    own: u8,
}

/// A triple buffer whose slots all start as `initial()`, so that capacity is allocated once.
pub fn triple_buffer<T: Send>(mut initial: impl FnMut() -> T) -> (Writer<T>, Reader<T>) {
    let slots = [UnsafeCell::new(initial()), UnsafeCell::new(initial()), UnsafeCell::new(initial())];
    let shared = Arc::new(Shared { slots, middle: AtomicU8::new(1) });
    (Writer { shared: Arc::clone(&shared), own: 0 }, Reader { shared, own: 2 })
}

impl<T: Send> Writer<T> {
    /// The slot to fill. It holds some earlier value, not necessarily the last one published.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn slot(&mut self) -> &mut T {
        // SAFETY: `own` is this writer's index, see `Shared`; `&mut self` makes the borrow unique.
        self.shared.slots[self.own as usize].with_mut(|slot| unsafe { &mut *slot })
    }

    /// Publishes the slot; the reader's next [`Reader::update`] sees it.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn publish(&mut self) {
        self.own = self.shared.middle.swap(self.own | NEW, Ordering::AcqRel) & INDEX;
    }
}

impl<T: Send> Reader<T> {
    /// Takes the newest published value if there is one that has not been taken; whether there was.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn update(&mut self) -> bool {
        if self.shared.middle.load(Ordering::Relaxed) & NEW == 0 {
            return false;
        }
        self.own = self.shared.middle.swap(self.own, Ordering::AcqRel) & INDEX;
        true
    }

    /// The value taken last.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn value(&self) -> &T {
        // SAFETY: `own` is this reader's index, see `Shared`; the writer never reaches it while it is ours.
        self.shared.slots[self.own as usize].with(|slot| unsafe { &*slot })
    }

    /// The value taken last, to be taken away: the writer gets whatever is left here back, as a slot to fill.
    ///
    /// # Real-time
    /// Does not allocate, lock or wait.
    pub fn slot(&mut self) -> &mut T {
        // SAFETY: as for `value`; `&mut self` makes the borrow unique.
        self.shared.slots[self.own as usize].with_mut(|slot| unsafe { &mut *slot })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_reader_sees_the_newest_whole_value_once() {
        let (mut writer, mut reader) = triple_buffer(|| [0u64; 64]);
        assert!(!reader.update());
        for round in 1..=3 {
            *writer.slot() = [round; 64];
            writer.publish();
        }
        assert!(reader.update());
        assert_eq!(reader.value(), &[3; 64]);
        assert!(!reader.update());
    }

    #[test]
    fn values_are_never_torn_and_never_go_back() {
        let (mut writer, mut reader) = triple_buffer(|| [0u64; 64]);
        let thread = std::thread::spawn(move || {
            for round in 1..=200_000u64 {
                *writer.slot() = [round; 64];
                writer.publish();
            }
        });
        let mut last = 0;
        while last < 200_000 {
            if reader.update() {
                let value = *reader.value();
                assert!(value.iter().all(|&v| v == value[0]) && value[0] > last);
                last = value[0];
            }
        }
        thread.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_model {
    use super::*;

    #[test]
    fn no_interleaving_tears_a_value_or_goes_back() {
        loom::model(|| {
            let (mut writer, mut reader) = triple_buffer(|| [0u8; 2]);
            let thread = loom::thread::spawn(move || {
                for round in 1..=3 {
                    *writer.slot() = [round; 2];
                    writer.publish();
                }
            });
            let mut last = 0;
            for _ in 0..3 {
                if reader.update() {
                    let value = *reader.value();
                    assert_eq!(value[0], value[1]);
                    assert!(value[0] > last);
                    last = value[0];
                }
            }
            thread.join().unwrap();
        });
    }

    /// As a camera's frames cross: both ends trade whole buffers, and no buffer is ever in two hands.
    #[test]
    fn buffers_traded_at_both_ends_stay_whole_and_none_is_lost() {
        loom::model(|| {
            let mut serial = 0;
            let (mut writer, mut reader) = triple_buffer(|| {
                serial += 1;
                Box::new((serial, 0u8))
            });
            let thread = loom::thread::spawn(move || {
                let mut scratch = Box::new((4, 0));
                for round in 1..=2 {
                    scratch.1 = round;
                    core::mem::swap(writer.slot(), &mut scratch);
                    writer.publish();
                }
                (writer, scratch)
            });
            let mut own = Box::new((5, 0));
            let mut last = 0;
            for _ in 0..2 {
                if reader.update() {
                    core::mem::swap(reader.slot(), &mut own);
                    assert!(own.1 > last);
                    last = own.1;
                }
            }
            let (writer, scratch) = thread.join().unwrap();
            let mut buffers = vec![scratch.0, own.0];
            for slot in &writer.shared.slots {
                buffers.push(slot.with(|slot| unsafe { (&**slot).0 }));
            }
            buffers.sort_unstable();
            assert_eq!(buffers, [1, 2, 3, 4, 5]);
        });
    }

    /// A camera's health: whoever sees a sequence number sees the stamp stored before it, or a newer one.
    #[test]
    fn a_sequence_number_is_never_seen_before_its_stamp() {
        use loom::sync::atomic::AtomicU64;
        loom::model(|| {
            let health = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
            let writer = Arc::clone(&health);
            let thread = loom::thread::spawn(move || {
                for number in 1..=2 {
                    writer.0.store(number * 10, Ordering::Release);
                    writer.1.store(number, Ordering::Release);
                }
            });
            let sequence = health.1.load(Ordering::Acquire);
            let captured = health.0.load(Ordering::Acquire);
            assert!(captured >= sequence * 10, "{captured} for {sequence}");
            thread.join().unwrap();
        });
    }
}
