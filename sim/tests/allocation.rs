//! The control path through the simulated bus and cameras touches no heap.
#![allow(clippy::unwrap_used)]
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use endplate_hal::{Arm, Camera, CommandMode, Frame, Instant, JointCommand, JointVec, RobotSpec, SafetyFilter, robots};
use endplate_sim::fault::{Fault, FaultPlan};
use endplate_sim::model::Model;
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; the counter is a thread-local `Cell`
// without a destructor, so that counting never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn read_write_and_capture_do_not_allocate() {
    let start = Instant::from_nanos(1_000_000_000);
    let spec = RobotSpec::from_toml_str(robots::SO101_SIM, "so101_sim.toml").unwrap();
    let faults = ["state_jump@0.2+0.1", "bus_error@0.3+0.1", "camera_freeze:wrist@0.2+0.1"];
    let faults = faults.iter().map(|text| Fault::parse(text).unwrap()).collect();
    let options = SimOptions { faults: Arc::new(FaultPlan::new(faults)), ..SimOptions::from_spec(&spec) };
    let model = Arc::new(Model::so101_like().unwrap());
    let robot = SimRobot::new(model, &Scene::sample(0), options, start).unwrap();
    let (mut arm, mut cameras) = (robot.arm(), robot.cameras());
    let pose = JointVec::from_slice(&robot.goal_rad()).unwrap();
    let mut filter = SafetyFilter::new(spec.safety_limits(), &pose).unwrap();
    let mut frame = Frame::new(96, 96);
    let (mut during, mut frames) = (0, 0);
    for tick in 0..60 {
        let now = start.saturating_add(Duration::from_millis(tick * 10));
        robot.advance_to(now);
        let valid_until = now.saturating_add(Duration::from_millis(50));
        let command = JointCommand { mode: CommandMode::Position, target: pose, valid_until };
        let before = ALLOCATIONS.with(Cell::get);
        let state = arm.read(now);
        let (command, _) = filter.filter(now, &command);
        let sent = arm.write(now, &command);
        for camera in &mut cameras {
            frames += u32::from(camera.capture(now, &mut frame) == Ok(true));
        }
        during += ALLOCATIONS.with(Cell::get) - before;
        assert_eq!((state.is_ok(), sent.is_ok()), (true, !(30..40).contains(&tick)));
    }
    assert!(ALLOCATIONS.with(Cell::get) > 0, "the counter counts");
    assert!(frames > 30);
    assert_eq!(during, 0);
}
