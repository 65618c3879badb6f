//! Execution providers of ONNX Runtime: nothing falls back unless the list says so.
//!
//! With the CPU library that the other tests use. With `ENDPLATE_GPU_LIBRARY` naming the library of PyPI's
//! `onnxruntime-gpu`, the same on a machine that has the GPU library and no GPU.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use endplate_policies::engine::ort::{Ort, OrtOptions};
use endplate_policies::engine::{Contract, Engine, EngineError, ExternalFile, GraphSource, ProviderList};
use endplate_policies::{Bundle, BundleSource, EngineChoice, LoadError, load_policy};

fn options(list: &str) -> OrtOptions {
    let library = std::env::var_os("ENDPLATE_GPU_LIBRARY").map(PathBuf::from);
    OrtOptions { library, providers: ProviderList::from_names(list, "test").unwrap(), ..OrtOptions::default() }
}

/// Whether a library is there; where one is required, its absence fails elsewhere.
fn has_library() -> bool {
    common::engines().iter().any(|(name, _)| *name == "ort")
}

#[test]
fn a_required_provider_that_cannot_start_is_an_error_with_what_it_needs() {
    if !has_library() {
        return;
    }
    for name in ["cuda", "tensorrt"] {
        match Ort::new(&options(&format!("{name},cpu"))).map(|engine| engine.description()) {
            Err(EngineError::Provider { provider, needs, .. }) => {
                assert_eq!(provider, name);
                assert!(needs.contains("NVIDIA driver"), "{needs}");
            }
            // On a machine with a GPU it starts, and says so.
            Ok(description) => assert!(description.providers.len() == 2, "{description:?}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_preferred_provider_is_left_out_aloud_and_an_empty_rest_is_an_error() {
    if !has_library() {
        return;
    }
    let description = Ort::new(&options("tensorrt?,cuda?,cpu")).unwrap().description();
    assert_eq!(description.providers.len() + description.skipped.len(), 3, "{description:?}");
    for reason in &description.skipped {
        assert!(reason.contains("it needs an NVIDIA driver"), "{reason}");
    }
    if description.skipped.len() == 2 {
        let error = Ort::new(&options("tensorrt?,cuda?")).map(drop).unwrap_err();
        assert!(matches!(&error, EngineError::NoProvider { skipped } if skipped.len() == 2), "{error}");
        assert!(error.to_string().contains("add `cpu` to the list"), "{error}");
    }
}

#[test]
fn a_plug_in_that_is_missing_or_is_none_says_so() {
    if !has_library() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libplugin.so");
    let mut wanted = options("cpu");
    let mut refusal = || {
        let text = format!("[[providers]]\nname = \"tensorrt_rtx\"\nlibrary = \"{}\"", file.display());
        let file = endplate_policies::engine::EngineFile::from_toml_str(&text, "test", "/".as_ref()).unwrap();
        wanted.providers = file.providers;
        Ort::new(&wanted).map(drop).unwrap_err().to_string()
    };
    let message = refusal();
    assert!(message.contains("`tensorrt_rtx` cannot start") && message.contains("does not exist"), "{message}");
    std::fs::write(&file, "no library").unwrap();
    let message = refusal();
    assert!(message.contains("`tensorrt_rtx` cannot start") && message.contains("RTX GPU"), "{message}");
}

#[test]
fn the_nodes_of_every_graph_are_counted_by_the_provider_that_holds_them() {
    if !has_library() {
        return;
    }
    let model = |name: &str| std::fs::read(format!("{}/tests/models/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let engine = Ort::new(&options("cpu")).unwrap();
    let mut contract = Contract::new();
    contract.input_i64("positions", &[1, 2]);
    contract.input_f32("x", &[1, 2, 3]);
    contract.output_f32("logits", &[1, 2, 4]);
    let external = [ExternalFile { name: "weights.bin".into(), bytes: Arc::from(model("weights.bin")) }];
    let source = GraphSource { name: "mix.onnx", onnx: &model("mix.onnx"), external: &external };
    drop(engine.load(source, &contract).unwrap());
    let placements = engine.placements();
    assert_eq!((placements.len(), placements[0].graph.as_str()), (1, "mix.onnx"));
    assert_eq!(placements[0].share("CPUExecutionProvider"), 1.0, "{}", placements[0]);
    assert!(placements[0].nodes["CPUExecutionProvider"] >= 2, "{}", placements[0]);
}

#[test]
fn a_bundle_can_demand_a_share_of_the_nodes_for_a_provider() {
    if !has_library() {
        return;
    }
    let with_share = |share: &str| {
        let copy = common::Copy::new();
        copy.edit(|text| text.replacen("ort = {", &format!("ort = {{ share = {{ {share} }},"), 1));
        Bundle::open(BundleSource::Directory(copy.path()))
    };
    let choice = || EngineChoice::Ort(options("cpu"));
    let loaded = load_policy(&with_share("cpu = 1.0").unwrap(), choice()).unwrap();
    assert_eq!(loaded.engine.providers, ["CPUExecutionProvider"]);
    assert!(!loaded.engine.placements.is_empty());
    let error = load_policy(&with_share("tensorrt = 0.9").unwrap(), choice()).map(drop).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, LoadError::Engine(EngineError::Placement { .. })), "{message}");
    assert!(message.contains("demands that `tensorrt` holds 0.9 of the nodes, and it holds 0.000"), "{message}");
    for (share, remedy) in [("cpu = 1.5", "above 0 and at most 1"), ("rocm = 0.5", "name tensorrt")] {
        let message = with_share(share).map(drop).unwrap_err().to_string();
        assert!(message.contains("engines.ort.share") && message.contains(remedy), "{message}");
    }
}

#[test]
fn rows_are_appended_on_the_device_and_only_behind_what_is_in_use() {
    if !has_library() {
        return;
    }
    let onnx = std::fs::read(format!("{}/tests/models/grow.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let source = GraphSource { name: "grow", onnx: &onnx, external: &[] };
    let resident = OrtOptions { keep_on_device: Some(true), ..options("cpu") };
    for (options, stays) in [(resident, true), (options("cpu"), false)] {
        let engine = Ort::new(&options).unwrap();
        let mut contract = Contract::new();
        let slab = contract.input_f32("x", &[1, 1, 2, 3]);
        let (new, same) = (contract.output_f32("new", &[1, 1, 2, 3]), contract.output_f32("same", &[1, 1, 2, 3]));
        contract.append(new, slab);
        let mut session = engine.load(source, &contract).unwrap();
        assert_eq!(session.append(0, 2), Ok(false), "nothing was made yet");
        session.input_f32_mut(slab).unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        session.run().unwrap();
        assert_eq!(session.append(0, 2), Ok(stays));
        session.run().unwrap();
        let seen = session.output_f32(same).unwrap().to_vec();
        let doubled = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0];
        assert_eq!(seen, if stays { doubled } else { [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] });
        if stays {
            // The rows that stay there come to the host when they are asked for.
            assert!(session.output_f32(new).is_err());
            assert_eq!(session.output_and_input_f32(new, slab).unwrap().0[..3], [4.0, 8.0, 12.0]);
            // What is not kept needs room too.
            let error = session.append(1, 1).unwrap_err().to_string();
            assert!(error.contains("no row left"), "{error}");
        }
    }
}
