//! One graph of any number of rows in the place of one graph a number: the same answers, and what does not fit is refused.
//!
//! `models/pick_cube_{bins,fast}_decode.onnx` are what `endplate-block --dynamic` (in `export/`) makes of the shipped bundles.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::path::{Path, PathBuf};

use common::drive::{Drive, EPISODE};
use common::{Copy, engines, with_rows};
use counting::allocations;
use endplate_policies::engine::{Direction, EngineError, EngineFile};
use endplate_policies::{
    Bundle, BundleSource, EngineChoice, LoadError, MemoryBound, OrtOptions, Policy, load_policy, load_policy_timed,
};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name)
}

fn open(path: PathBuf) -> Bundle {
    Bundle::open(BundleSource::Directory(path)).unwrap()
}

fn load(bundle: &Bundle, decoding: &str, choice: EngineChoice) -> Box<dyn Policy> {
    let mut bundle = bundle.clone();
    bundle.set_decoding(decoding.parse().unwrap()).unwrap();
    load_policy(&bundle, choice).unwrap().policy
}

#[test]
fn tokens_and_rows_are_those_of_the_graphs_of_fixed_rows() {
    for name in ["pick_cube_bins", "pick_cube_fast"] {
        let copy = with_rows(name);
        let (fixed, any) = (open(shipped(name)), open(copy.path()));
        let drive = Drive::of(&fixed);
        for (engine, choice) in engines() {
            for decoding in ["plain", "previous+trigram+jacobi"] {
                let mut expected = load(&fixed, decoding, choice.clone());
                let mut policy = load(&any, decoding, choice.clone());
                let mut tokens = 0;
                for number in 0..2 * EPISODE {
                    let what = format!("{name}, {decoding} on {engine}, observation {number}");
                    let (wanted, rows) = drive.infer(&mut *expected, number);
                    let (got, chunk) = drive.infer(&mut *policy, number);
                    assert_eq!(policy.tokens(), expected.tokens(), "{what}");
                    assert_eq!(got.map_err(|error| error.kind()), wanted.map_err(|error| error.kind()), "{what}");
                    assert_eq!(chunk.rows(), rows.rows(), "{what}");
                    assert_eq!(chunk.stages().passes, rows.stages().passes, "{what}");
                    tokens += policy.tokens().len();
                }
                println!("{name}, {decoding} on {engine}: {tokens} tokens alike");
            }
        }
    }
}

#[test]
fn every_number_of_rows_runs_and_onnx_runtime_has_one_session_for_all() {
    let copy = with_rows("pick_cube_bins");
    let mut bundle = open(copy.path());
    bundle.set_decoding("jacobi".parse().unwrap()).unwrap();
    let drive = Drive::of(&bundle);
    for (engine, choice) in engines() {
        let (mut loaded, runs) = load_policy_timed(&bundle, choice, false).unwrap();
        let graphs: Vec<&str> = loaded.engine.placements.iter().map(|placement| &*placement.graph).collect();
        assert_eq!(graphs, if engine == "ort" { vec!["decode.onnx", "vision.onnx"] } else { vec![] });
        runs.take();
        let (result, chunk) = drive.infer(&mut *loaded.policy, 0);
        result.unwrap();
        let noted = runs.take();
        let of = |graph: &str| noted.iter().filter(|run| &*run.graph == graph).count();
        assert_eq!((of("vision.onnx"), of("decode.k110.onnx"), of("decode.k1.onnx")), (1, 1, 0), "{engine}");
        assert_eq!(of("decode.k8.onnx"), chunk.stages().passes as usize, "{engine}");
    }
}

/// The bins bundle with one decoder, and the prefix on its own graph.
fn with_prefill() -> Copy {
    let copy = with_rows("pick_cube_bins");
    copy.add("prefill.onnx", &std::fs::read(shipped("pick_cube_bins").join("prefill.onnx")).unwrap());
    copy.edit(|text| text.replacen("rows = [1, 8, 110]", "rows = [1, 8]", 1));
    copy
}

#[test]
fn the_prefix_may_keep_its_own_graph() {
    let copy = with_prefill();
    let (fixed, any) = (open(shipped("pick_cube_bins")), open(copy.path()));
    let drive = Drive::of(&fixed);
    for (engine, choice) in engines() {
        let mut expected = load(&fixed, "jacobi", choice.clone());
        let (mut loaded, runs) = load_policy_timed(&any, choice.clone(), false).unwrap();
        runs.take();
        drive.infer(&mut *loaded.policy, 0).0.unwrap();
        assert!(runs.take().iter().any(|run| &*run.graph == "prefill.onnx"), "{engine}");
        let mut policy = load(&any, "jacobi", choice);
        drive.infer(&mut *expected, 0).0.unwrap();
        drive.infer(&mut *policy, 0).0.unwrap();
        assert_eq!(policy.tokens(), expected.tokens(), "{engine}");
    }
}

/// The bindings of every number of rows are held ready: a pass takes from the heap what one of a fixed graph takes. (Not
/// counted: what ONNX Runtime takes from its own. On tract the prefix is left out, which has more operators on this graph.)
#[test]
fn an_inference_allocates_no_more_than_with_graphs_of_fixed_rows() {
    let (copy, decoder_alone) = (with_rows("pick_cube_bins"), with_prefill());
    let fixed = open(shipped("pick_cube_bins"));
    let drive = Drive::of(&fixed);
    for (engine, choice) in engines() {
        let any = open(if engine == "tract" { decoder_alone.path() } else { copy.path() });
        for decoding in ["plain", "previous+trigram+jacobi"] {
            let counts = |bundle: &Bundle| -> Vec<usize> {
                let mut policy = load(bundle, decoding, choice.clone());
                let count = |number| {
                    let before = allocations();
                    drive.infer(&mut *policy, number).0.unwrap();
                    allocations() - before
                };
                (0..6).map(count).skip(2).collect()
            };
            let (expected, got) = (counts(&fixed), counts(&any));
            println!("{decoding} on {engine}: {expected:?} with fixed graphs, {got:?} with one");
            assert!(got.iter().zip(&expected).all(|(got, expected)| got <= expected), "{decoding} on {engine}");
        }
    }
}

#[test]
fn rows_that_the_bundle_does_not_run_or_does_not_declare_are_refused() {
    for (rows, reason) in [
        ("[1, 110]", "decoding.block says that 8 rows are verified a pass: add 8"),
        ("[8, 110]", "a token is decoded with 1 row: add it"),
        ("[1, 4, 8]", "no pass has 4 rows: write 1, decoding.block and, where"),
        ("[1, 110, 8]", "write at least two numbers, ascending"),
        ("[1, 8, 8]", "write at least two numbers, ascending"),
    ] {
        let copy = with_rows("pick_cube_bins");
        copy.edit(|text| text.replacen("rows = [1, 8, 110]", &format!("rows = {rows}"), 1));
        let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("policy.toml: decoding.rows = {rows}: ")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    let copy = with_rows("pick_cube_bins");
    copy.edit(|text| {
        text.replacen("rows = [1, 8, 110]", "rows = [1]", 1).replacen("block = 8\nblock_ms = 0.8\n", "", 1)
    });
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("for one row alone leave the key out"), "{error}");
    let copy = with_rows("pick_cube_fast");
    copy.add("decode_gqa.onnx", b"another decoder");
    let error = Bundle::open(BundleSource::Directory(copy.path())).unwrap_err().to_string();
    assert!(error.contains("decode_gqa.onnx is another decoder"), "{error}");
}

#[test]
fn a_graph_of_fixed_rows_or_of_other_tensors_is_no_graph_of_any_number() {
    let graph = |name: &str| std::fs::read(shipped("pick_cube_bins").join(name)).unwrap();
    for (engine, choice) in engines() {
        let error = |onnx: &[u8]| {
            let copy = with_rows("pick_cube_bins");
            copy.replace("decode.onnx", onnx);
            match load_policy(&open(copy.path()), choice.clone()).map(drop) {
                Err(LoadError::Engine(error)) => error,
                other => panic!("{engine}: {other:?}"),
            }
        };
        let fixed = error(&graph("decode_k1.onnx"));
        assert!(
            matches!(&fixed, EngineError::Fixed { tensor, axis: 1, got: 1, direction: Direction::Input, .. } if tensor == "x"),
            "{engine}: {fixed}"
        );
        assert!(fixed.to_string().contains("make it with `endplate-block --dynamic`"), "{fixed}");
        let other = error(&graph("prefill.onnx"));
        assert!(matches!(&other, EngineError::Fixed { got: 110, .. } | EngineError::MissingTensor { .. }), "{other}");
        let copy = with_rows("pick_cube_bins");
        copy.remove("decode.onnx");
        copy.edit(|text| {
            text.lines().filter(|line| !line.starts_with("\"decode.onnx\"")).map(|line| format!("{line}\n")).collect()
        });
        let missing = load_policy(&open(copy.path()), choice.clone()).map(drop).unwrap_err().to_string();
        assert!(missing.contains("decode.onnx: ") && missing.contains("does not list it"), "{engine}: {missing}");
    }
}

fn ort(text: &str) -> EngineChoice {
    EngineChoice::Ort(OrtOptions::from_file(EngineFile::from_toml_str(text, "engine.toml", "/".as_ref()).unwrap()))
}

#[test]
fn tensorrt_is_given_the_range_of_the_rows_that_the_bundle_declares() {
    let copy = with_rows("pick_cube_bins");
    let (fixed, any) = (open(shipped("pick_cube_bins")), open(copy.path()));
    let list = "[[providers]]\nname = \"tensorrt\"\n{}\n[[providers]]\nname = \"cuda\"\n[[providers]]\nname = \"cpu\"";
    let with = |options: &str| ort(&list.replace("{}", options));
    let profiles = with("").profiles(any.spec()).unwrap();
    let one = "x:1x1x128,positions:1x1,mask:1x1x1x159";
    let most = "x:1x110x128,positions:1x110,mask:1x1x110x268";
    assert_eq!(profiles.len(), 1);
    assert_eq!((profiles[0].0, &*profiles[0].1.min, &*profiles[0].1.opt), ("tensorrt", one, one));
    assert_eq!(profiles[0].1.max, most);
    let chosen = with("profile_rows = { min = 1, opt = 8, max = 128 }").profiles(any.spec()).unwrap();
    assert_eq!(chosen[0].1.opt, "x:1x8x128,positions:1x8,mask:1x1x8x166");
    assert_eq!(with("").profiles(fixed.spec()), Ok(Vec::new()));
    for (options, bundle, words) in [
        ("profile_rows = { min = 1, opt = 1, max = 8 }", &any, "is run with [1, 8, 110] rows"),
        ("profile_rows = { min = 1, opt = 1, max = 8 }", &fixed, "every graph of the bundle is of one shape"),
        ("dla_core = 0", &any, "the accelerator runs one shape"),
    ] {
        // Before anything is started: the machine need not have the provider.
        let error = load_policy(bundle, with(options)).map(drop).unwrap_err().to_string();
        assert!(error.contains("`tensorrt`") && error.contains(words), "{error}");
    }
    let recorded = ort("[[providers]]\nname = \"tensorrt\"\ncuda_graph = true");
    let error = load_policy(&any, recorded.clone()).map(drop).unwrap_err();
    assert!(matches!(&error, LoadError::Engine(EngineError::Rows { key: "cuda_graph", .. })), "{error}");
    assert!(recorded.profiles(fixed.spec()).is_ok());
    assert!(ort("[[providers]]\nname = \"cuda\"\ncuda_graph = true").profiles(any.spec()).is_ok());
}

#[test]
fn weights_are_bounded_once_where_they_are_held_once() {
    let copy: Copy = with_rows("pick_cube_bins");
    let (fixed, any) = (open(shipped("pick_cube_bins")), open(copy.path()));
    let weights = fixed.file("weights.safetensors").unwrap().len() as u64;
    let onnx = |bundle: &Bundle| -> u64 {
        let names = bundle.spec().files.keys().filter(|name| name.ends_with(".onnx"));
        // The halves are for techniques that these bundles do not choose.
        let names = names.filter(|name| !name.starts_with("decode_a") && !name.starts_with("decode_b"));
        names.map(|name| bundle.file(name).unwrap().len() as u64).sum()
    };
    let shared = ort("[[providers]]\nname = \"cpu\"");
    let bound = |bundle: &Bundle, choice: &EngineChoice| MemoryBound::of(bundle, choice).weights - onnx(bundle);
    // Vision, prefill, one row, eight; vision and the decoder; on tract three of the latter.
    assert_eq!(bound(&fixed, &shared), 2 * weights * 4);
    assert_eq!(bound(&any, &shared), 2 * weights * 2);
    assert_eq!(bound(&any, &EngineChoice::Tract), 2 * weights * 4);
}

/// Windows of each, in turn.
const WINDOWS: u64 = 40;

#[test]
#[ignore = "a measurement: run it alone, in release"]
fn what_a_pass_takes_beside_one_of_a_graph_of_fixed_rows() {
    let copy = with_rows("pick_cube_bins");
    let bundles = [open(shipped("pick_cube_bins")), open(copy.path())];
    let drive = Drive::of(&bundles[0]);
    for (engine, choice) in engines() {
        for (decoding, names) in [
            ("plain", &[["prefill.onnx", "decode.k110.onnx"], ["decode_k1.onnx", "decode.k1.onnx"]][..]),
            ("jacobi", &[["decode_k8.onnx", "decode.k8.onnx"]]),
        ] {
            let mut loaded: Vec<_> = bundles
                .iter()
                .map(|bundle| {
                    let mut bundle = bundle.clone();
                    bundle.set_decoding(decoding.parse().unwrap()).unwrap();
                    load_policy_timed(&bundle, choice.clone(), false).unwrap()
                })
                .collect();
            // By graph, the medians of the windows of each bundle, µs.
            let mut medians = vec![[Vec::new(), Vec::new()]; names.len()];
            for window in 0..WINDOWS + 2 {
                for (which, (loaded, runs)) in loaded.iter_mut().enumerate() {
                    runs.take();
                    for number in 0..3 {
                        drive.infer(&mut *loaded.policy, number).0.unwrap();
                    }
                    let noted = runs.take();
                    for (names, medians) in names.iter().zip(&mut medians) {
                        let of = noted.iter().filter(|run| *run.graph == *names[which]);
                        let micros = of.map(|run| run.time.as_secs_f64() * 1e6).collect();
                        if window > 1 {
                            medians[which].push(median(micros));
                        }
                    }
                }
            }
            for (names, [fixed, any]) in names.iter().zip(medians) {
                let ratios = any.iter().zip(&fixed).map(|(any, fixed)| any / fixed).collect();
                let (ratio, low, high) = middle(ratios);
                let (fixed, any) = (median(fixed), median(any));
                println!(
                    "{engine}: {} {fixed:.0} µs, {} {any:.0} µs, ratio {ratio:.3} ({low:.3}–{high:.3})",
                    names[0], names[1]
                );
            }
        }
    }
}

fn median(values: Vec<f64>) -> f64 {
    middle(values).0
}

/// The median, and its 95 % interval from the ranks.
fn middle(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let (n, half) = (values.len() as f64, values.len() as f64 / 2.0);
    let at = |rank: f64| values[(rank.max(0.0) as usize).min(values.len() - 1)];
    (at(half), at((half - 0.98 * n.sqrt()).floor()), at((half + 0.98 * n.sqrt()).floor()))
}
