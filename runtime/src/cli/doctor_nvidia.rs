//! The lines of `endplate doctor` about NVIDIA's devices and libraries and the execution providers that need them.

use super::doctor::{Line, Need};
use endplate_policies::OrtOptions;
use endplate_policies::engine::ort::{Machine, Ort};
use endplate_policies::engine::{Engine, Provider, ProviderList};
use std::path::PathBuf;

/// What this machine has of NVIDIA's, and which providers start with its ONNX Runtime library.
pub fn lines(library: Option<&PathBuf>) -> Vec<Line> {
    let machine = Machine::read();
    let mut lines = vec![
        Line {
            what: "NVIDIA device",
            pass: !machine.devices.is_empty(),
            need: Need::Optional,
            found: if machine.devices.is_empty() { "none".to_owned() } else { machine.devices.join(", ") },
            fix: "without one, policies run on the CPU; with one, install its driver",
        },
        Line {
            what: "NVIDIA driver",
            pass: machine.driver.is_some() || machine.jetpack.is_some(),
            need: Need::Optional,
            found: machine.driver.clone().or(machine.jetpack.clone()).unwrap_or_else(|| "none".to_owned()),
            fix: "install the driver of the GPU; on a Jetson, flash JetPack",
        },
        libraries(
            &machine,
            "CUDA libraries",
            &["libcuda.so", "libcudart.so", "libcublas.so", "libcudnn.so"],
            "install CUDA and cuDNN of the major version that the ONNX Runtime library was built for",
        ),
        libraries(
            &machine,
            "TensorRT libraries",
            &["libnvinfer.so", "libnvonnxparser.so"],
            "install TensorRT of the version that the ONNX Runtime library was built for (JetPack brings it)",
        ),
    ];
    if let Some(module) = &machine.jetson {
        lines.push(Line {
            what: "JetPack",
            pass: machine.jetpack.is_some(),
            need: Need::Optional,
            found: format!("{module}, {}", machine.jetpack.as_deref().unwrap_or("no release file")),
            fix: "flash JetPack; then use an ONNX Runtime library built on it, named with --ort-library: PyPI's has no code for Orin and Thor",
        });
    }
    for (provider, what) in [(Provider::TensorRt, "provider tensorrt"), (Provider::Cuda, "provider cuda")] {
        let tried = ProviderList::from_names(provider.name(), "doctor").map_err(|error| error.to_string()).and_then(
            |providers| {
                let options = OrtOptions { library: library.cloned(), providers, ..OrtOptions::default() };
                Ort::new(&options).map(|engine| engine.description().library).map_err(|error| error.to_string())
            },
        );
        lines.push(Line {
            what,
            pass: tried.is_ok(),
            need: Need::Optional,
            found: match tried {
                Ok(library) => format!("starts with {library}; `check --golden --providers` says which nodes it takes"),
                Err(error) => error,
            },
            fix: "bring what it needs, or leave it out of the list of providers",
        });
    }
    lines
}

fn libraries(machine: &Machine, what: &'static str, stems: &[&'static str], fix: &'static str) -> Line {
    let missing = machine.missing(stems);
    let found: Vec<String> =
        stems.iter().filter_map(|stem| Some(machine.library(stem)?.display().to_string())).collect();
    let found = match (found.is_empty(), missing.is_empty()) {
        (true, _) => "none".to_owned(),
        (false, true) => found.join(", "),
        (false, false) => format!("{}; missing: {}", found.join(", "), missing.join(", ")),
    };
    Line { what, pass: missing.is_empty(), need: Need::Optional, found, fix }
}
