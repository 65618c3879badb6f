//! The decoder's two graphs give the same answers, and so does a timed engine, which notes every run.
//!
//! `models/pick_cube_fast_decode_gqa.onnx` is what `python -m endplate_export.in_place` (in `export/`) adds to a copy of
//! `bundles/pick_cube_fast`.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::drive::Drive;
use common::{Copy, bundle_path, engines};
use endplate_hal::Instant;
use endplate_policies::engine::{Contract, EngineError, GraphSource};
use endplate_policies::{
    Budget, Bundle, BundleSource, Committed, EngineChoice, Epoch, OrtOptions, golden_inputs, infer_open_loop,
    load_policy, load_policy_timed,
};

#[test]
fn timed_and_repeated_runs_give_the_same_answer_and_are_all_noted() {
    let bundle = Bundle::open(BundleSource::Directory(bundle_path())).unwrap();
    let inputs = golden_inputs(&bundle).unwrap();
    for (name, choice) in engines() {
        let (mut loaded, runs) = load_policy_timed(&bundle, choice, false).unwrap();
        assert!(!runs.take().is_empty(), "{name}: golden replay ran");

        let plain = infer_open_loop(&mut *loaded.policy, &inputs[0]).unwrap();
        let noted = runs.take();
        let of = |graph: &str| noted.iter().filter(|run| &*run.graph == graph).count();
        let decoded = plain.tokens.len() - 1;
        assert_eq!((of("vision.onnx"), of("prefill.onnx"), of("decode_k1.onnx")), (1, 1, decoded), "{name}");
        assert!(noted.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{name}: one after the other");
        assert!(noted.iter().all(|run| !run.is_repeated), "{name}");

        runs.repeat("decode_k1.onnx", 2);
        let repeated = infer_open_loop(&mut *loaded.policy, &inputs[0]).unwrap();
        let again = runs.take();
        assert_eq!((&repeated.tokens, repeated.chunk.rows()), (&plain.tokens, plain.chunk.rows()), "{name}");
        assert_eq!(again.len(), noted.len() + 2 * decoded, "{name}");
        assert_eq!(again.iter().filter(|run| run.is_repeated).count(), 2 * decoded, "{name}");
    }
}

const IN_PLACE: &str = "decode_gqa.onnx";

#[test]
fn a_graph_that_writes_in_place_answers_as_the_portable_one_where_the_engine_can() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Copy::of(&folder.join("bundles/pick_cube_fast"));
    let plain = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    copy.add(IN_PLACE, &std::fs::read(folder.join("tests/models/pick_cube_fast_decode_gqa.onnx")).unwrap());
    let with = Bundle::open(BundleSource::Directory(copy.path())).unwrap();
    let mut inputs = golden_inputs(&plain).unwrap();
    // Prompts of other lengths: the padding that the one graph masks and the other never sees.
    let other = inputs.iter().cloned().map(|mut input| {
        input.instruction = "pick up the blue cube".to_owned();
        input
    });
    inputs.extend(other.collect::<Vec<_>>());
    for (name, choice) in engines() {
        let mut portable = load_policy(&plain, choice.clone()).unwrap();
        let (mut in_place, runs) = load_policy_timed(&with, choice, false).unwrap();
        runs.take();
        for (index, input) in inputs.iter().enumerate() {
            let expected = infer_open_loop(&mut *portable.policy, input).unwrap();
            let got = infer_open_loop(&mut *in_place.policy, input).unwrap();
            assert_eq!(got.tokens, expected.tokens, "{name}, input {index}");
            let close = got.chunk.rows().iter().zip(expected.chunk.rows()).all(|(a, b)| (a - b).abs() < 1e-9);
            assert!(close, "{name}, input {index}");
        }
        let is_used = runs.take().iter().any(|run| &*run.graph == IN_PLACE);
        assert_eq!(is_used, name == "ort", "{name}");
    }
}

#[test]
fn an_engine_that_does_not_write_in_place_says_so_when_asked_to() {
    let onnx = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/grow.onnx")).unwrap();
    for (name, choice) in engines() {
        let engine = choice.start().unwrap();
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, 1, 2, 3]);
        contract.output_in_place("new", x);
        contract.output_f32("same", &[1, 1, 2, 3]);
        let loaded = engine.load(GraphSource { name: "grow", onnx: &onnx, external: &[] }, &contract).map(drop);
        match engine.writes_in_place() {
            true => assert_eq!(loaded, Ok(()), "{name}"),
            false => assert!(matches!(loaded, Err(EngineError::Load { .. })), "{name}: {loaded:?}"),
        }
    }
}

/// ONNX Runtime with the tensors on the host, and on the device.
fn on_host_and_device() -> Option<(EngineChoice, EngineChoice)> {
    engines().into_iter().find_map(|(_, choice)| match choice {
        EngineChoice::Ort(options) => {
            let resident = OrtOptions { keep_on_device: Some(true), ..options.clone() };
            Some((EngineChoice::Ort(options), EngineChoice::Ort(resident)))
        }
        EngineChoice::Tract => None,
    })
}

/// Keys and values on the device, by the code that a GPU runs: with the CPU's memory as the device.
#[test]
fn sessions_whose_tensors_lie_on_the_device_answer_as_those_on_the_host() {
    let Some((choice, resident)) = on_host_and_device() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = ["pick_cube_fast", "pick_cube_bins", "pick_cube_flow"].map(|name| root.join("bundles").join(name));
    let exported = std::fs::read_dir(root.join("tests/bundles")).unwrap().map(|entry| entry.unwrap().path());
    let dynamic = ["pick_cube_fast", "pick_cube_bins"].map(common::with_rows);
    let dynamic_paths = dynamic.iter().map(Copy::path);
    for path in shipped.into_iter().chain(exported).chain(dynamic_paths) {
        let mut bundle = Bundle::open(BundleSource::Directory(path.clone())).unwrap();
        let mut ways = vec!["plain"];
        if bundle.spec().family.tokens().is_some_and(|rules| rules.block.is_some()) {
            ways.push("jacobi"); // blocks of which a part is kept
        }
        for way in ways {
            if way != "plain" {
                bundle.set_decoding(way.parse().unwrap()).unwrap();
            }
            let mut host = load_policy(&bundle, choice.clone()).unwrap();
            let mut device = load_policy(&bundle, resident.clone()).unwrap();
            for input in golden_inputs(&bundle).unwrap() {
                let expected = infer_open_loop(&mut *host.policy, &input).unwrap();
                let got = infer_open_loop(&mut *device.policy, &input).unwrap();
                let what = format!("{} {way}", path.display());
                assert_eq!(got.tokens, expected.tokens, "{what}");
                assert_eq!(got.chunk.rows(), expected.chunk.rows(), "{what}: the same bits");
            }
        }
    }
}

/// Where blocks give way, the decoder of one row goes on from the rows that the block's put into its slab on the device.
#[test]
fn rows_that_stayed_on_the_device_are_taken_over_when_blocks_give_way() {
    let Some((host, device)) = on_host_and_device() else { return };
    let dynamic = common::with_rows("pick_cube_bins");
    for path in [Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/pick_cube_bins"), dynamic.path()] {
        let mut bundle = Bundle::open(BundleSource::Directory(path)).unwrap();
        bundle.set_decoding("previous".parse().unwrap()).unwrap();
        let drive = Drive::of(&bundle);
        let (costs, block) = (bundle.spec().costs, bundle.spec().family.tokens().unwrap().block.unwrap().cost);
        let span = costs.vision + costs.prefill + costs.step * 48 + block * 3;
        let infer = |choice: &EngineChoice| {
            let mut policy = load_policy(&bundle, choice.clone()).unwrap().policy;
            let budget = Budget { start: Instant::ZERO, deadline: Instant::ZERO.saturating_add(span), clock: None };
            let (result, chunk) = drive.within(&mut *policy, 0, &Committed::none(Epoch(0)), budget);
            result.unwrap();
            assert!(chunk.stages().blocks > 0 && chunk.stages().passes > f64::from(chunk.stages().blocks));
            (policy.tokens().to_vec(), chunk.rows().to_vec())
        };
        assert_eq!(infer(&device), infer(&host));
    }
}
