//! A timed engine changes nothing that a policy answers, and notes every run.

#![allow(clippy::unwrap_used)]

mod common;

use common::{bundle_path, engines};
use endplate_policies::{Bundle, BundleSource, golden_inputs, infer_open_loop, load_policy_timed};

#[test]
fn timed_and_repeated_runs_give_the_same_answer_and_are_all_noted() {
    let bundle = Bundle::open(BundleSource::Directory(bundle_path())).unwrap();
    let inputs = golden_inputs(&bundle).unwrap();
    for (name, choice) in engines() {
        let (mut loaded, runs) = load_policy_timed(&bundle, choice).unwrap();
        assert!(!runs.take().is_empty(), "{name}: golden replay ran");

        let plain = infer_open_loop(&mut *loaded.policy, &inputs[0]).unwrap();
        let noted = runs.take();
        let of = |graph: &str| noted.iter().filter(|run| &*run.graph == graph).count();
        let decoded = plain.tokens.len() - 1;
        assert_eq!((of("vision.onnx"), of("prefill.onnx"), of("decode_k1.onnx")), (1, 1, decoded), "{name}");
        assert!(noted.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{name}: one after the other");
        assert!(noted.iter().all(|run| !run.is_repeated), "{name}");

        runs.repeat(2);
        let repeated = infer_open_loop(&mut *loaded.policy, &inputs[0]).unwrap();
        let again = runs.take();
        assert_eq!((&repeated.tokens, repeated.chunk.rows()), (&plain.tokens, plain.chunk.rows()), "{name}");
        assert_eq!(again.len(), 3 * noted.len(), "{name}");
        assert_eq!(again.iter().filter(|run| run.is_repeated).count(), 2 * noted.len(), "{name}");
    }
}
