//! One conformance suite, every engine. Models: `make_models.py`.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::engines;
use endplate_policies::engine::{
    Contract, Direction, Dtype, Engine, EngineError, ExternalFile, GraphSource, InputSlot, OutputSlot, Session,
};

fn model(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/models/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn weights(bytes: Vec<u8>) -> Vec<ExternalFile> {
    vec![ExternalFile { name: "weights.bin".into(), bytes: Arc::from(bytes) }]
}

fn load(
    engine: &dyn Engine,
    name: &str,
    external: &[ExternalFile],
    contract: &Contract,
) -> Result<Box<dyn Session>, EngineError> {
    engine.load(GraphSource { name, onnx: &model(name), external }, contract)
}

fn mix() -> (Contract, InputSlot, InputSlot, OutputSlot) {
    let mut contract = Contract::new();
    // Not in the graph's order: slots follow the contract.
    let positions = contract.input_i64("positions", &[1, 2]);
    let x = contract.input_f32("x", &[1, 2, 3]);
    let logits = contract.output_f32("logits", &[1, 2, 4]);
    (contract, positions, x, logits)
}

/// `x @ W + E[positions]` with the weights of `make_models.py`.
fn expected(x: &[f32; 6], positions: [usize; 2]) -> Vec<f32> {
    (0..8)
        .map(|i| {
            let (row, column) = (i / 4, i % 4);
            let product: f32 = (0..3).map(|k| x[row * 3 + k] * ((k * 4 + column) as f32 / 8.0 - 0.5)).sum();
            product + ((positions[row] * 4 + column) * 10) as f32
        })
        .collect()
}

#[test]
fn inputs_are_bound_once_and_external_weights_come_from_memory() {
    for (name, choice) in engines() {
        let engine = choice.start().unwrap();
        println!("{name}: {:?}", engine.description());
        let (contract, positions, x, logits) = mix();
        let mut session = load(&*engine, "mix.onnx", &weights(model("weights.bin")), &contract).unwrap();
        assert!(
            matches!(session.output_f32(logits), Err(EngineError::Slot { .. })),
            "{name}: there is no output before the first run"
        );
        let mut values = [0.5, -1.0, 2.0, 0.0, 1.0, -0.25];
        for (run, at) in [[0usize, 4], [3, 1], [3, 1]].into_iter().enumerate() {
            values[0] += run as f32;
            session.input_f32_mut(x).unwrap().copy_from_slice(&values);
            session.input_i64_mut(positions).unwrap().copy_from_slice(&at.map(|p| p as i64));
            session.run().unwrap();
            let got = session.output_f32(logits).unwrap();
            for (got, want) in got.iter().zip(expected(&values, at)) {
                assert!((got - want).abs() < 1e-4, "{name}: {got} {want}");
            }
        }
        // Inputs keep their values, and the same inputs give the same bits.
        let first = session.output_f32(logits).unwrap().to_vec();
        session.run().unwrap();
        assert_eq!(session.output_f32(logits).unwrap(), first);
    }
}

#[test]
fn an_output_can_be_copied_into_an_input_and_an_unchanged_input_is_no_alias() {
    for (name, choice) in engines() {
        let mut contract = Contract::new();
        let x = contract.input_f32("x", &[1, 1, 2, 3]);
        let same = contract.output_f32("same", &[1, 1, 2, 3]);
        let new = contract.output_f32("new", &[1, 1, 2, 3]);
        let mut session = load(&*choice.start().unwrap(), "grow.onnx", &[], &contract).unwrap();
        session.input_f32_mut(x).unwrap().fill(1.0);
        for round in 1..=3 {
            session.run().unwrap();
            let (from, into) = session.output_and_input_f32(new, x).unwrap();
            into.copy_from_slice(from);
            assert_eq!(session.output_f32(new).unwrap(), [f32::powi(2.0, round); 6], "{name}");
            assert_eq!(
                session.output_f32(same).unwrap(),
                [f32::powi(2.0, round - 1); 6],
                "{name}: the output stays what it was"
            );
        }
    }
}

#[test]
fn values_that_are_not_finite_come_through() {
    for (name, choice) in engines() {
        let mut contract = Contract::new();
        let (x, y) = (contract.input_f32("x", &[2]), contract.input_f32("y", &[2]));
        let z = contract.output_f32("z", &[2]);
        let mut session = load(&*choice.start().unwrap(), "div.onnx", &[], &contract).unwrap();
        session.input_f32_mut(x).unwrap().copy_from_slice(&[1.0, 0.0]);
        session.input_f32_mut(y).unwrap().fill(0.0);
        session.run().unwrap();
        let out = session.output_f32(z).unwrap();
        assert!(out[0].is_infinite() && out[1].is_nan(), "{name}: {out:?}");
    }
}

#[test]
fn tensors_that_break_the_contract_are_named() {
    for (name, choice) in engines() {
        let engine = choice.start().unwrap();
        let external = weights(model("weights.bin"));
        let error =
            |model: &str, contract: &Contract| load(&*engine, model, &external, contract).map(drop).unwrap_err();
        let contract = |inputs: &[(&str, Dtype, &[usize])], outputs: &[(&str, &[usize])]| {
            let mut contract = Contract::new();
            for (name, dtype, shape) in inputs {
                match dtype {
                    Dtype::F32 => drop(contract.input_f32(*name, shape)),
                    Dtype::I64 => drop(contract.input_i64(*name, shape)),
                }
            }
            for (name, shape) in outputs {
                contract.output_f32(*name, shape);
            }
            contract
        };
        const X: (&str, Dtype, &[usize]) = ("x", Dtype::F32, &[1, 2, 3]);
        const P: (&str, Dtype, &[usize]) = ("positions", Dtype::I64, &[1, 2]);
        let logits: (&str, &[usize]) = ("logits", &[1, 2, 4]);

        let found = error("mix.onnx", &contract(&[X, P, ("mask", Dtype::F32, &[1])], &[logits]));
        assert!(
            matches!(&found, EngineError::MissingTensor { tensor, direction: Direction::Input, .. } if tensor == "mask"),
            "{name}: {found}"
        );
        let found = error("mix.onnx", &contract(&[X], &[logits]));
        assert!(
            matches!(&found, EngineError::UnknownTensor { tensor, .. } if tensor == "positions"),
            "{name}: {found}"
        );
        let found = error("mix.onnx", &contract(&[X, P], &[("scores", &[1, 2, 4])]));
        assert!(
            matches!(&found, EngineError::UnknownTensor { tensor, direction: Direction::Output, .. } if tensor == "logits"),
            "{name}: {found}"
        );
        let found = error("mix.onnx", &contract(&[X, ("positions", Dtype::F32, &[1, 2])], &[logits]));
        assert!(
            matches!(&found, EngineError::Dtype { tensor, expected: Dtype::F32, .. } if tensor == "positions"),
            "{name}: {found}"
        );
        let found = error("mix.onnx", &contract(&[("x", Dtype::F32, &[1, 3, 2]), P], &[logits]));
        assert!(
            matches!(&found, EngineError::Shape { tensor, got, .. } if tensor == "x" && got == "[1, 2, 3]"),
            "{name}: {found}"
        );
        let found = error("mix.onnx", &contract(&[X, P], &[("logits", &[1, 2, 5])]));
        assert!(
            matches!(&found, EngineError::Shape { tensor, direction: Direction::Output, .. } if tensor == "logits"),
            "{name}: {found}"
        );
        let found = error("half.onnx", &contract(&[("x", Dtype::F32, &[2])], &[("y", &[2])]));
        assert!(matches!(&found, EngineError::Dtype { got, .. } if got.contains("16")), "{name}: {found}");
        let found = error("free.onnx", &contract(&[("x", Dtype::F32, &[1, 3])], &[("y", &[1, 3])]));
        assert!(matches!(&found, EngineError::Shape { got, .. } if got == "[?, 3]"), "{name}: {found}");
    }
}

#[test]
fn damaged_models_and_weights_are_errors_that_name_the_graph() {
    for (name, choice) in engines() {
        let engine = choice.start().unwrap();
        let (contract, ..) = mix();
        let whole = model("mix.onnx");
        let external = weights(model("weights.bin"));
        for onnx in [&[][..], b"no model at all", &whole[..whole.len() / 2]] {
            let error = engine
                .load(GraphSource { name: "mix.onnx", onnx, external: &external }, &contract)
                .map(drop)
                .unwrap_err();
            assert!(error.to_string().contains("mix.onnx"), "{name}: {error}");
        }
        let short = weights(model("weights.bin")[..100].to_vec());
        for external in [&short[..], &[]] {
            let error = load(&*engine, "mix.onnx", external, &contract).map(drop).unwrap_err();
            assert!(matches!(error, EngineError::External { .. } | EngineError::Load { .. }), "{name}: {error}");
            assert!(error.to_string().contains("mix.onnx"), "{name}: {error}");
        }
    }
}

#[test]
fn foreign_slots_are_refused() {
    for (name, choice) in engines() {
        let engine = choice.start().unwrap();
        let (contract, positions, x, _) = mix();
        let mut session = load(&*engine, "mix.onnx", &weights(model("weights.bin")), &contract).unwrap();
        assert!(matches!(session.input_f32_mut(positions), Err(EngineError::Slot { dtype: Dtype::F32, .. })), "{name}");
        assert!(matches!(session.input_i64_mut(x), Err(EngineError::Slot { dtype: Dtype::I64, .. })), "{name}");
        let mut other = Contract::new();
        for i in 0..8 {
            other.output_f32(format!("{i}"), &[1]);
        }
        let far = other.output_f32("far", &[1]);
        session.run().unwrap();
        assert!(matches!(session.output_f32(far), Err(EngineError::Slot { index: 8, .. })), "{name}");
    }
}

mod library {
    use endplate_policies::engine::ort::{Ort, OrtOptions};
    use endplate_policies::engine::{EngineError, LibraryError};
    use std::process::Command;

    fn error(options: OrtOptions) -> EngineError {
        Ort::new(&options).map(drop).unwrap_err()
    }

    #[test]
    fn a_library_that_was_named_and_is_missing_is_never_searched_for_elsewhere() {
        let found =
            error(OrtOptions { library: Some("/nonexistent/libonnxruntime.so".into()), ..OrtOptions::default() });
        assert!(
            matches!(&found, EngineError::Library(LibraryError::NoSuchFile { path, .. }) if path.contains("nonexistent")),
            "{found}"
        );
    }

    #[test]
    fn a_file_that_is_no_library_says_so_and_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = error(OrtOptions { library: Some(file.path().to_owned()), ..OrtOptions::default() });
        // Where another test of this process already loaded a library, that is said instead.
        assert!(
            matches!(
                &found,
                EngineError::Library(LibraryError::Unloadable { .. } | LibraryError::AlreadyLoaded { .. })
            ),
            "{found}"
        );
    }

    /// A library with the entry point of ONNX Runtime and another version, compiled on the spot.
    fn library_of_version(folder: &std::path::Path, version: &str) -> std::path::PathBuf {
        let source = folder.join("stub.c");
        let text = format!(
            "#include <stddef.h>\n\
             static const void* api(unsigned version) {{ return NULL; }}\n\
             static const char* text(void) {{ return \"{version}\"; }}\n\
             static const struct {{ const void* (*api)(unsigned); const char* (*text)(void); }} base = {{ api, text }};\n\
             const void* OrtGetApiBase(void) {{ return &base; }}\n"
        );
        std::fs::write(&source, text).unwrap();
        let library = folder.join(format!("libonnxruntime.so.{version}"));
        let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
        assert!(compiler.success());
        library
    }

    #[test]
    fn a_library_that_is_too_old_is_refused_with_its_version_and_the_one_needed() {
        let folder = tempfile::tempdir().unwrap();
        let library = library_of_version(folder.path(), "1.17.3");
        // In a process of its own: ONNX Runtime allows one library in a process.
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "library::in_another_process", "--nocapture", "--ignored"])
            .env("ENDPLATE_TEST_LIBRARY", library)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("has version 1.17.3 and 1.24 or newer is needed"), "{text}");
    }

    /// Prints why the library of `ENDPLATE_TEST_LIBRARY` with the providers of `ENDPLATE_TEST_PROVIDERS` is refused.
    #[test]
    #[ignore = "run by other tests, in a process of its own"]
    fn in_another_process() {
        let library = std::env::var_os("ENDPLATE_TEST_LIBRARY").map(Into::into);
        let providers = match std::env::var("ENDPLATE_TEST_PROVIDERS") {
            Ok(list) => endplate_policies::engine::ProviderList::from_names(&list, "test").unwrap(),
            Err(_) => Default::default(),
        };
        println!("{}", error(OrtOptions { library, providers, ..OrtOptions::default() }));
    }
}
