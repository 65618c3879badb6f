//! The scripted expert on poses no training ever sees.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use endplate_sim::expert::rollout;
use endplate_sim::model::Model;
use endplate_sim::physics::Physics;
use endplate_sim::scene::Scene;
use endplate_sim::task::{Outcome, target_of};

#[test]
fn the_expert_picks_the_named_cube_in_at_least_48_of_50_scenes() {
    let model = Arc::new(Model::so101_like().unwrap());
    let mut failed = Vec::new();
    for index in 0..50 {
        let seed = 2_000_000 + index;
        let mut physics = Physics::new(Arc::clone(&model), &Scene::sample(seed));
        let outcome = rollout(&mut physics, None, target_of(index), 200, 0, |_, _, plan| plan.rows[1]);
        if outcome != Outcome::Success {
            failed.push((seed, outcome));
        }
    }
    assert!(failed.len() <= 2, "{} of 50 failed: {failed:?}", failed.len());
}
