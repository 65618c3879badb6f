//! ONNX Runtime through `ort`, loaded at start-up from a library the machine brings. CPU provider, one thread.
//!
//! Spinning is off: it gave tails of 16–20 ms on steps of 0.3 ms when the machine was busy. Inputs and outputs are
//! bound once and rewritten in place; ONNX Runtime itself still allocates in every run.

mod library;

use std::path::PathBuf;
use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session as Runtime};
use ort::value::{Tensor, TensorElementType, ValueType};

use super::{
    Contract, Declared, Direction, Dtype, Engine, EngineDescription, EngineError, GraphSource, InputSlot, OutputSlot,
    Session, matching, no_slot,
};

pub use library::{Found, Origin, find_library};

const NAME: &str = "ort";
const CPU: &str = "CPUExecutionProvider";
const SUPPORTED: &[&str] = &[CPU];

/// How to start ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtOptions {
    /// The library to load; `None` searches (see [`find_library`]).
    pub library: Option<PathBuf>,
    /// Execution providers asked for, by ONNX Runtime's names; empty means the CPU. A provider this build does not run
    /// is refused, never replaced by the CPU.
    pub providers: Vec<String>,
}

/// The ONNX Runtime engine.
pub struct Ort {
    loaded: &'static library::Loaded,
}

impl Ort {
    /// Finds and loads the library.
    ///
    /// # Errors
    /// [`EngineError::Library`] with the remedy; [`EngineError::Provider`] for a provider other than the CPU.
    pub fn new(options: &OrtOptions) -> Result<Self, EngineError> {
        if let Some(requested) = options.providers.iter().find(|name| !SUPPORTED.contains(&name.as_str())) {
            return Err(EngineError::Provider { requested: requested.clone(), supported: SUPPORTED });
        }
        let found = find_library(options.library.as_deref())?;
        Ok(Self { loaded: library::load(found)? })
    }
}

impl Engine for Ort {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            name: NAME,
            version: self.loaded.version.clone(),
            library: self.loaded.found.to_string(),
            providers: SUPPORTED.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError> {
        let failed = |error: ort::Error| EngineError::Load {
            engine: NAME,
            graph: graph.name.to_owned(),
            detail: error.to_string(),
        };
        let session = self.build(graph).map_err(failed)?;
        matching(graph.name, Direction::Input, &declared(session.inputs()), contract.inputs())?;
        matching(graph.name, Direction::Output, &declared(session.outputs()), contract.outputs())?;
        let bound = OrtSession::bind(session, graph, contract).map_err(failed)?;
        Ok(Box::new(bound))
    }
}

impl Ort {
    fn build(&self, graph: GraphSource<'_>) -> Result<Runtime, ort::Error> {
        let mut builder = Runtime::builder(&self.loaded.environment)?
            .with_intra_threads(1)
            .map_err(ort::Error::<()>::from)?
            .with_inter_threads(1)
            .map_err(ort::Error::<()>::from)?
            .with_intra_op_spinning(false)
            .map_err(ort::Error::<()>::from)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(ort::Error::<()>::from)?;
        for file in graph.external {
            builder = builder
                .with_external_initializer_file_in_memory(&file.name, Arc::clone(&file.bytes))
                .map_err(ort::Error::<()>::from)?;
        }
        builder.commit_from_memory(graph.onnx)
    }
}

enum Buffer {
    F32(Tensor<f32>),
    I64(Tensor<i64>),
}

struct OrtSession {
    graph: String,
    runtime: Runtime,
    binding: IoBinding,
    inputs: Vec<Buffer>,
    outputs: Vec<Tensor<f32>>,
    /// Outputs are uninitialised memory until the first run.
    has_run: bool,
    /// Initialisers may still point into the files.
    _external: Vec<Arc<[u8]>>,
}

impl OrtSession {
    fn bind(runtime: Runtime, graph: GraphSource<'_>, contract: &Contract) -> Result<Self, ort::Error> {
        let mut binding = runtime.create_binding()?;
        let allocator = Allocator::default();
        let mut inputs = Vec::with_capacity(contract.inputs().len());
        for spec in contract.inputs() {
            inputs.push(match spec.dtype {
                Dtype::F32 => {
                    let mut tensor = Tensor::<f32>::new(&allocator, spec.shape.clone())?;
                    tensor.extract_tensor_mut().1.fill(0.0);
                    binding.bind_input(spec.name.as_str(), &tensor)?;
                    Buffer::F32(tensor)
                }
                Dtype::I64 => {
                    let mut tensor = Tensor::<i64>::new(&allocator, spec.shape.clone())?;
                    tensor.extract_tensor_mut().1.fill(0);
                    binding.bind_input(spec.name.as_str(), &tensor)?;
                    Buffer::I64(tensor)
                }
            });
        }
        let mut outputs = Vec::with_capacity(contract.outputs().len());
        for spec in contract.outputs() {
            let mut tensor = Tensor::<f32>::new(&allocator, spec.shape.clone())?;
            binding.bind_output(spec.name.as_str(), &mut tensor)?;
            outputs.push(tensor);
        }
        let external = graph.external.iter().map(|file| Arc::clone(&file.bytes)).collect();
        Ok(Self {
            graph: graph.name.to_owned(),
            runtime,
            binding,
            inputs,
            outputs,
            has_run: false,
            _external: external,
        })
    }

    fn output(&self, slot: OutputSlot) -> Option<&[f32]> {
        if !self.has_run {
            return None;
        }
        Some(self.outputs.get(slot.0)?.extract_tensor().1)
    }
}

impl Session for OrtSession {
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError> {
        match self.inputs.get_mut(slot.0) {
            Some(Buffer::F32(tensor)) => Ok(tensor.extract_tensor_mut().1),
            _ => Err(no_slot(&self.graph, Direction::Input, slot.0, Dtype::F32)),
        }
    }

    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError> {
        match self.inputs.get_mut(slot.0) {
            Some(Buffer::I64(tensor)) => Ok(tensor.extract_tensor_mut().1),
            _ => Err(no_slot(&self.graph, Direction::Input, slot.0, Dtype::I64)),
        }
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.has_run = false;
        let result = self.runtime.run_binding(&self.binding).map(drop);
        result.map_err(|error| EngineError::Run {
            engine: NAME,
            graph: self.graph.clone(),
            detail: error.to_string(),
        })?;
        self.has_run = true;
        Ok(())
    }

    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError> {
        self.output(slot).ok_or_else(|| no_slot(&self.graph, Direction::Output, slot.0, Dtype::F32))
    }

    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError> {
        let from = match self.outputs.get(output.0) {
            Some(tensor) if self.has_run => tensor.extract_tensor().1,
            _ => return Err(no_slot(&self.graph, Direction::Output, output.0, Dtype::F32)),
        };
        match self.inputs.get_mut(input.0) {
            Some(Buffer::F32(tensor)) => Ok((from, tensor.extract_tensor_mut().1)),
            _ => Err(no_slot(&self.graph, Direction::Input, input.0, Dtype::F32)),
        }
    }
}

fn declared(outlets: &[ort::value::Outlet]) -> Vec<Declared> {
    outlets
        .iter()
        .map(|outlet| match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => Declared {
                name: outlet.name().to_owned(),
                dtype: match ty {
                    TensorElementType::Float32 => Ok(Dtype::F32),
                    TensorElementType::Int64 => Ok(Dtype::I64),
                    other => Err(format!("{other:?}").to_lowercase()),
                },
                shape: shape.iter().map(|dim| usize::try_from(*dim).ok()).collect(),
            },
            _ => Declared { name: outlet.name().to_owned(), dtype: Err("not a tensor".to_owned()), shape: Vec::new() },
        })
        .collect()
}
