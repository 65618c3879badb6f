//! After activation the control path allocates nothing: ticks, snapshots, hand-offs of frames and chunks, with faults
//! beginning and ending, a refused chunk and an e-stop on the way.
#![allow(clippy::unwrap_used)]

mod rig;

use endplate_policies::Epoch;
use endplate_runtime::watchdog::Heartbeat;
use endplate_runtime::{
    BudgetAccount, CameraHealth, CommandStamps, ControlSnapshot, Event, Inbox, Rung, StepOutcome, stamp_ring,
    triple_buffer,
};
use rig::Rig;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

struct Counting;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // A thread that is going down has no counters left, and is not the one under test.
    let _ = COUNTING.try_with(|counting| {
        if counting.get() {
            let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        }
    });
}

// SAFETY: hands every call to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator while `work` runs on this thread.
fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    COUNT.set(0);
    COUNTING.set(true);
    let result = work();
    COUNTING.set(false);
    (result, COUNT.get())
}

#[test]
fn the_counter_counts() {
    assert!(counted(|| vec![1u8; 100]).1 >= 1);
    assert_eq!(counted(|| 1 + 1).1, 0);
}

#[test]
fn the_control_path_allocates_nothing_after_activation() {
    let faults = ["camera_drop:front@2+1", "state_loss@5+0.5", "bus_error@7+0.02", "state_jump@8+0.3"];
    let mut rig = Rig::new(2_000_002, &faults, |_| {});
    let (producer, mut events) = rtrb::RingBuffer::<Event>::new(64);
    rig.control.set_events(producer);
    // Room for the log of a test is made before, not while counting.
    rig.log.lock().unwrap().writes.reserve(10_000);
    let begin = rig.activate();
    let template = rig.inference.chunk().clone();
    let (mut chunk_writer, mut chunk_reader) = triple_buffer(|| template.clone());
    let (mut snapshot_writer, mut snapshot_reader) = triple_buffer(ControlSnapshot::new);
    let (mut stamp_writer, mut stamp_reader) = stamp_ring(16);
    let mut account = BudgetAccount::new(rig.spec.control.deadline);
    let heartbeat = Heartbeat::default();
    let mut health = vec![CameraHealth::default(); rig.watch.len()];
    let (mut now, mut worst, mut told) = (begin, 0, 0);
    let mut rungs = std::collections::BTreeMap::new();
    let mut announced = 0;
    for period in 0..1_200u32 {
        rig.world.advance_to(now);
        let cameras = &mut rig.cameras;
        let (_, in_cameras) = counted(|| cameras.iter_mut().for_each(|camera| camera.step(now)));
        let (control, watch) = (&mut rig.control, &rig.watch);
        // From a new instruction half way on, chunks of the old epoch are refused.
        let epoch = Epoch(u64::from(period >= 1_000));
        let (tick, in_tick) = counted(|| {
            watch.read(&mut health);
            let arrived = chunk_reader.update();
            let inbox = Inbox {
                chunk: arrived.then(|| chunk_reader.value()),
                cameras: &health,
                refused_in_a_row: 0,
                epoch,
                estop: period > 1_100,
                missed: u64::from(period == 700),
            };
            let tick = control.tick(now, &inbox);
            if let Some(tick) = &tick {
                stamp_writer.push(CommandStamps::of(tick, now, now, now, inbox.missed));
            }
            heartbeat.beat();
            control.snapshot(now, snapshot_writer.slot());
            snapshot_writer.publish();
            tick
        });
        *rungs.entry(tick.unwrap().rung).or_insert(0) += 1;
        worst = worst.max(in_cameras).max(in_tick);
        assert_eq!(worst, 0, "period {period}: {in_cameras} in the cameras, {in_tick} in the control tick");
        let (_, in_account) = counted(|| stamp_reader.drain(&mut account));
        assert_eq!(in_account, 0, "the account of a command");
        snapshot_reader.update();
        let ControlSnapshot { wants_chunk, wants_chunk_soon, .. } = *snapshot_reader.value();
        assert!(wants_chunk_soon || !wants_chunk, "period {period}: what is wanted now is wanted soon");
        announced += u32::from(wants_chunk_soon && !wants_chunk);
        let bank = &mut rig.bank;
        let (frames, in_bank) = counted(|| bank.refresh());
        assert_eq!(in_bank, 0, "taking frames over");
        if matches!(rig.inference.step(now, snapshot_reader.value(), frames, None), StepOutcome::Answered(_)) {
            let inference = &rig.inference;
            let (_, in_hand_over) = counted(|| {
                chunk_writer.slot().copy_from(inference.chunk());
                chunk_writer.publish();
            });
            assert_eq!(in_hand_over, 0, "the hand-over of a chunk");
        }
        while events.pop().is_ok() {
            told += 1;
        }
        now = now.saturating_add(Duration::from_millis(10));
    }
    for rung in [Rung::Fresh, Rung::Decelerated, Rung::Held, Rung::Stopped] {
        assert!(rungs.contains_key(&rung), "{rung:?} was not exercised: {rungs:?}");
    }
    assert!(told >= 6, "only {told} events were told");
    assert!(announced >= 20, "chunks were announced in {announced} periods only");
    // Every period is in the account, and every command that plays rows names its frame.
    let (counters, counts): (std::collections::BTreeMap<_, _>, _) = (account.counters().into(), rig.control.counts());
    assert_eq!((counters["commands"], counters["commands_unaccounted"]), (counts.commands, 0));
    assert_eq!(counters["commands_from_a_frame"], counts.ladder.fresh + counts.ladder.continued);
    assert_eq!((heartbeat.beats(), *account.ladder()), (1_200, counts.ladder));
}
