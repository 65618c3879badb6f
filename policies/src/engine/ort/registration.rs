//! Asking ONNX Runtime for one provider with its options.

use std::path::Path;

use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::memory::DeviceType;
use ort::session::builder::SessionBuilder;

use crate::engine::{ComputePrecision, Provider, ProviderRequest, ShapeProfile};

const MIB: usize = 1 << 20;

/// Adds a provider to a session's options; `profile` for a graph whose shapes grow with its rows. A failure names what ONNX
/// Runtime said, and leaves nothing behind that would let the session be built without it.
pub(super) fn register(
    mut builder: SessionBuilder,
    environment: &Environment,
    request: &ProviderRequest,
    cache: Option<&Path>,
    profile: Option<&ShapeProfile>,
) -> Result<SessionBuilder, String> {
    let dispatch = match request.name {
        Provider::Cpu => return Ok(builder),
        Provider::TensorRtRtx => return register_plug_in(builder, environment, request, cache, profile),
        Provider::Cuda => cuda(request),
        Provider::TensorRt => tensorrt(request, cache, profile).build(),
    };
    dispatch.register(&mut builder).map_err(|error| error.to_string())?;
    Ok(builder)
}

fn device(request: &ProviderRequest) -> i32 {
    request.device_id.map_or(0, |id| i32::try_from(id).unwrap_or(i32::MAX))
}

fn cuda(request: &ProviderRequest) -> ExecutionProviderDispatch {
    let mut cuda = ep::CUDA::default()
        .with_device_id(device(request))
        .with_tf32(request.precision == Some(ComputePrecision::Tf32))
        .with_cuda_graph(request.has_cuda_graph())
        // The exhaustive search takes seconds a convolution, and varies from start to start.
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    if let Some(limit) = request.memory_limit_mib {
        cuda = cuda.with_memory_limit(limit as usize * MIB);
    }
    cuda.build()
}

fn tensorrt(request: &ProviderRequest, cache: Option<&Path>, profile: Option<&ShapeProfile>) -> ep::TensorRT {
    let precision = request.precision.unwrap_or(ComputePrecision::F32);
    let mut tensorrt = ep::TensorRT::default()
        .with_device_id(device(request))
        .with_fp16(precision == ComputePrecision::Fp16)
        .with_bf16(precision == ComputePrecision::Bf16)
        .with_int8(precision == ComputePrecision::Int8)
        .with_cuda_graph(request.has_cuda_graph())
        .with_layer_norm_fp32_fallback(true)
        .with_context_memory_sharing(true);
    if let Some(workspace) = request.workspace_mib {
        tensorrt = tensorrt.with_max_workspace_size(workspace as usize * MIB);
    }
    if let Some(core) = request.dla_core {
        tensorrt = tensorrt.with_dla(true).with_dla_core(core);
    }
    if let Some(ShapeProfile { min, opt, max }) = profile {
        tensorrt = tensorrt.with_profile_min_shapes(min).with_profile_opt_shapes(opt).with_profile_max_shapes(max);
    }
    if let Some(folder) = cache {
        let folder = folder.display().to_string();
        tensorrt = tensorrt
            .with_engine_cache(true)
            .with_engine_cache_path(&folder)
            .with_timing_cache(true)
            .with_timing_cache_path(&folder);
    }
    tensorrt
}

/// A plug-in goes through a library of its own and the devices that it then offers.
fn register_plug_in(
    builder: SessionBuilder,
    environment: &Environment,
    request: &ProviderRequest,
    cache: Option<&Path>,
    profile: Option<&ShapeProfile>,
) -> Result<SessionBuilder, String> {
    let name = request.name.ort_name();
    let offered = |environment: &Environment| {
        environment.devices().any(|device| device.ep().is_ok_and(|provider| provider == name))
    };
    if !offered(environment) {
        let library = request.library.as_deref().ok_or("no plug-in library was named")?;
        if !library.is_file() {
            return Err(format!("the plug-in {} does not exist", library.display()));
        }
        environment.register_ep_library(name, library).map_err(|error| error.to_string())?;
    }
    let wanted = request.device_id.unwrap_or(0) as usize;
    let devices: Vec<_> = environment
        .devices()
        .filter(|device| {
            device.ep().is_ok_and(|provider| provider == name) && device.hardware_device().ty() == DeviceType::GPU
        })
        .skip(wanted)
        .take(1)
        .collect();
    if devices.is_empty() {
        return Err(format!("the plug-in offers no GPU with index {wanted}"));
    }
    let options = plug_in_options(request, cache, profile);
    builder.with_devices(devices, Some(&options)).map_err(|error| error.to_string())
}

/// Options of the plug-in, by the names that ONNX Runtime gives a device's.
fn plug_in_options(
    request: &ProviderRequest,
    cache: Option<&Path>,
    profile: Option<&ShapeProfile>,
) -> Vec<(String, String)> {
    let mut options = Vec::new();
    let mut set = |option: &str, value: String| options.push((format!("{}.{option}", request.name.ort_name()), value));
    if let Some(workspace) = request.workspace_mib {
        set("nv_max_workspace_size", (workspace as usize * MIB).to_string());
    }
    if request.has_cuda_graph() {
        set("enable_cuda_graph", "1".to_owned());
    }
    if let Some(ShapeProfile { min, opt, max }) = profile {
        set("nv_profile_min_shapes", min.clone());
        set("nv_profile_opt_shapes", opt.clone());
        set("nv_profile_max_shapes", max.clone());
    }
    if let Some(folder) = cache {
        set("nv_runtime_cache_path", folder.display().to_string());
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_is_given_the_profile_of_a_graph_whose_rows_are_symbolic_and_no_other() {
        let request = ProviderRequest::required(Provider::TensorRt);
        let words = |profile: Option<&ShapeProfile>| format!("{:?}", tensorrt(&request, None, profile));
        let profile =
            ShapeProfile { min: "x:1x1x3".into(), opt: "x:1x2x3".into(), max: "x:1x8x3,positions:1x8".into() };
        assert!(!words(None).contains("trt_profile"), "{}", words(None));
        let given = words(Some(&profile));
        for (key, value) in [
            ("trt_profile_min_shapes", "x:1x1x3"),
            ("trt_profile_opt_shapes", "x:1x2x3"),
            ("trt_profile_max_shapes", "x:1x8x3,positions:1x8"),
        ] {
            assert!(given.contains(&format!("\"{key}\"")) && given.contains(&format!("\"{value}\"")), "{given}");
        }
    }

    #[test]
    fn the_plug_in_is_given_the_profile_of_a_graph_whose_rows_are_symbolic_and_no_other() {
        let request = ProviderRequest { workspace_mib: Some(2), ..ProviderRequest::required(Provider::TensorRtRtx) };
        let words = |profile: Option<&ShapeProfile>| {
            let options = plug_in_options(&request, None, profile);
            options.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        let name = "NvTensorRTRTXExecutionProvider";
        assert_eq!(words(None), format!("{name}.nv_max_workspace_size=2097152"));
        let profile = ShapeProfile { min: "x:1x1".into(), opt: "x:1x1".into(), max: "x:1x8".into() };
        let expected = format!(
            "{name}.nv_max_workspace_size=2097152 {name}.nv_profile_min_shapes=x:1x1 {name}.nv_profile_opt_shapes=x:1x1 {name}.nv_profile_max_shapes=x:1x8"
        );
        assert_eq!(words(Some(&profile)), expected);
    }
}
