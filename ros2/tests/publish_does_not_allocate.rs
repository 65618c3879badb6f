//! Publishing allocates nothing on the thread that publishes, whether the ring has room or not.
#![allow(clippy::unwrap_used)]

use endplate_hal::{Clock, CommandSink, HeldCause, JointLimits, MonotonicClock, SafetyFilter, SafetyLimits};
use endplate_ros2::{ZenohCommandSink, ZenohOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; the counter is a thread-local without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn publish_neither_allocates_nor_frees_with_room_or_without() {
    let joint = JointLimits {
        lower_rad: -1.0,
        upper_rad: 1.0,
        velocity_rad_s: 1.0,
        acceleration_rad_s2: 10.0,
        jerk_rad_s3: 100.0,
    };
    let limits = SafetyLimits {
        period: Duration::from_millis(10),
        command_valid: Duration::from_secs(5),
        joints: vec![joint; 2],
        workspace: None,
    };
    let mut filter = SafetyFilter::new(limits, &[0.0; 2]).unwrap();
    let clock = Arc::new(MonotonicClock::new());
    let options = ZenohOptions {
        listen: vec!["tcp/127.0.0.1:0".into()],
        connect: vec![],
        ..ZenohOptions::for_joints(["a", "b"])
    };
    let mut sink = ZenohCommandSink::open(options, clock.clone()).unwrap();
    let command = filter.brake(clock.now(), HeldCause::Asked).0;

    let probe = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1u8)));
    assert_eq!(ALLOCATIONS.get(), probe + 2, "the counter counts");

    let before = ALLOCATIONS.get();
    for _ in 0..10_000 {
        sink.publish(&command);
    }
    let dropped = sink.dropped();
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(dropped > 0, "ten thousand commands at once overrun the ring");
}
