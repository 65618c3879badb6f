//! ONNX Runtime through `ort`, loaded at start-up from a library the machine brings. One thread.
//!
//! Which execution providers run is an ordered list ([`ProviderList`]); nothing falls back unless the list says so, and
//! what ONNX Runtime really assigned is read back for every graph.
//!
//! Spinning is off: it gave tails of 16–20 ms on steps of 0.3 ms when the machine was busy. Inputs and outputs are
//! bound once and rewritten in place; ONNX Runtime itself still allocates in every run.

mod append;
mod cache;
mod library;
mod machine;
mod placement;
mod registration;
mod resident;
mod shared;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, Session as Runtime};
use ort::value::{Tensor, TensorElementType, ValueType};

use super::{
    Contract, Declared, Direction, Dtype, Engine, EngineDescription, EngineError, EngineFile, GraphSource, InputSlot,
    OutputSlot, Placement, ProfileRows, Provider, ProviderList, ProviderRequest, Requirement, RowContracts, Session,
    ShapeProfile, matching_rows, no_slot,
};
use append::Append;
use cache::CacheKey;
use resident::{Residence, ResidentSession};
use shared::Shared;

pub use library::{Found, Origin, find_library};
pub use machine::Machine;

const NAME: &str = "ort";

/// How to start ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtOptions {
    /// The library to load; `None` searches (see [`find_library`]).
    pub library: Option<PathBuf>,
    /// Execution providers asked for, in order; the default is the CPU.
    pub providers: ProviderList,
    /// Folder under which TensorRT engines are kept; `None` for the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Whether tensors lie in the memory of the first provider's device, keys and values between runs too; `None` for what
    /// the provider needs: a GPU's sessions always do, the CPU's do not.
    pub keep_on_device: Option<bool>,
    /// Digest of the bundle whose graphs will be loaded: engines are kept by it.
    pub bundle_digest: String,
}

impl OrtOptions {
    /// The options an engine configuration file gives.
    pub fn from_file(file: EngineFile) -> Self {
        let EngineFile { library, cache, keep_on_device, providers } = file;
        Self { library, providers, cache, keep_on_device, bundle_digest: String::new() }
    }
}

/// A provider that started, and the folder of its engines.
struct Started {
    request: ProviderRequest,
    cache: Option<PathBuf>,
}

/// The ONNX Runtime engine.
pub struct Ort {
    loaded: &'static library::Loaded,
    providers: Vec<Started>,
    skipped: Vec<String>,
    placements: RefCell<Vec<Placement>>,
    /// Where the tensors of sessions lie; `None` for the host, without twins.
    residence: Option<Residence>,
}

impl Ort {
    /// Finds and loads the library, and tries every provider of the list.
    ///
    /// # Errors
    /// [`EngineError::Library`] with the remedy; [`EngineError::Provider`] for a required provider that cannot start;
    /// [`EngineError::NoProvider`] where none is left; [`EngineError::Cache`] for a cache that cannot be used.
    pub fn new(options: &OrtOptions) -> Result<Self, EngineError> {
        let found = find_library(options.library.as_deref())?;
        let loaded = library::load(found)?;
        let mut engine = Self {
            loaded,
            providers: Vec::new(),
            skipped: Vec::new(),
            placements: RefCell::default(),
            residence: None,
        };
        for request in options.providers.requests() {
            let cache = engine.cache_of(request, options)?;
            let tried = Runtime::builder(&loaded.environment).map_err(|error| error.to_string()).and_then(|builder| {
                registration::register(builder, &loaded.environment, request, cache.as_deref(), None)
            });
            let tried = tried.map_err(|detail| in_short(&detail));
            match (tried, request.requirement) {
                (Ok(_), _) => engine.providers.push(Started { request: request.clone(), cache }),
                (Err(detail), Requirement::Preferred) => {
                    engine.skipped.push(format!("{}: {detail} (it needs {})", request.name, request.name.needs()));
                }
                (Err(detail), Requirement::Required) => {
                    return Err(EngineError::Provider {
                        provider: request.name.name(),
                        library: format!("{} {}", loaded.found, loaded.version),
                        detail,
                        needs: request.name.needs(),
                    });
                }
            }
        }
        if engine.providers.is_empty() {
            return Err(EngineError::NoProvider { skipped: engine.skipped });
        }
        let gpu = engine.gpu().map(|request| Residence::gpu(request.device_id.unwrap_or(0)));
        engine.residence = gpu.or_else(|| (options.keep_on_device == Some(true)).then(Residence::cpu));
        Ok(engine)
    }

    /// The folder of a provider's engines. Made only on a machine that shows an NVIDIA device: elsewhere the provider
    /// cannot start, and says why itself.
    fn cache_of(&self, request: &ProviderRequest, options: &OrtOptions) -> Result<Option<PathBuf>, EngineError> {
        let machine = Machine::read();
        if !request.keeps_engines() || machine.devices.is_empty() {
            return Ok(None);
        }
        let Some(root) = options.cache.clone().or_else(cache::default_root) else {
            return Err(EngineError::Cache {
                folder: "(none)".to_owned(),
                detail: "neither XDG_CACHE_HOME nor HOME is set".to_owned(),
                remedy: "name a folder with `cache` in the engine configuration, or switch the provider's cache off"
                    .to_owned(),
            });
        };
        let key = CacheKey {
            bundle_digest: options.bundle_digest.clone(),
            device: machine.devices.join(", "),
            library: format!(
                "{}, {}, {}",
                self.loaded.version,
                machine.tensorrt().unwrap_or_else(|| "no libnvinfer".to_owned()),
                machine.driver.as_deref().unwrap_or("no driver version"),
            ),
            provider: request.fingerprint(),
        };
        cache::folder_for(&root, &key).map(Some)
    }

    /// The first GPU provider that started.
    fn gpu(&self) -> Option<&ProviderRequest> {
        self.providers.iter().map(|started| &started.request).find(|request| request.name != Provider::Cpu)
    }

    fn allows_cpu(&self) -> bool {
        self.providers.iter().any(|started| started.request.name == Provider::Cpu)
    }

    /// Compares where the nodes of a graph lie with what the list allows.
    fn placed(&self, graph: &str, runtime: &Runtime) -> Result<Placement, EngineError> {
        let nodes = placement::nodes_by_provider(runtime).map_err(|detail| EngineError::Load {
            engine: NAME,
            graph: graph.to_owned(),
            detail: format!("where its nodes lie cannot be read: {detail}"),
        })?;
        let placement = Placement { graph: graph.to_owned(), nodes };
        let refused = |detail: String| EngineError::Placement {
            graph: graph.to_owned(),
            detail,
            placement: placement.to_string(),
        };
        let cpu = Provider::Cpu.ort_name();
        if !self.allows_cpu() && placement.nodes.contains_key(cpu) {
            return Err(refused("nodes fell to the CPU, and `cpu` is not in the list of providers".to_owned()));
        }
        for Started { request, .. } in &self.providers {
            let name = request.name;
            let gpu = name != Provider::Cpu && request.requirement == Requirement::Required;
            if gpu && !placement.nodes.contains_key(name.ort_name()) {
                return Err(refused(format!("the required provider `{name}` holds no node")));
            }
        }
        Ok(placement)
    }
}

impl Engine for Ort {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            name: NAME,
            version: self.loaded.version.clone(),
            library: self.loaded.found.to_string(),
            providers: self.providers.iter().map(|started| started.request.name.ort_name().to_owned()).collect(),
            skipped: self.skipped.clone(),
        }
    }

    fn placements(&self) -> Vec<Placement> {
        self.placements.borrow().clone()
    }

    /// On the CPU alone: elsewhere the bound host buffers are copied to the device and back around every run.
    fn writes_in_place(&self) -> bool {
        self.residence.is_none()
    }

    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError> {
        let (session, placement) = self.open(graph, contract, contract, None)?;
        let bound = self.bind(Shared::alone(session), graph, contract)?;
        self.placements.borrow_mut().push(placement);
        Ok(bound)
    }

    /// One session of ONNX Runtime, so the weights exist once; every number of rows has a binding of its own, held ready, and
    /// where runs are recorded a recording of its own.
    fn load_rows(
        &self,
        graph: GraphSource<'_>,
        contracts: &RowContracts,
    ) -> Result<Vec<Box<dyn Session>>, EngineError> {
        let (session, placement) = self.open(graph, contracts.least(), contracts.most(), Some(contracts))?;
        let session = Shared::alone(session);
        let is_recorded = self.providers.iter().any(|started| started.request.has_cuda_graph());
        let mut bound = Vec::with_capacity(contracts.wanted().len());
        for (index, (_, contract)) in contracts.wanted().iter().enumerate() {
            let holder = session.again(is_recorded.then_some(index + 1)).map_err(|error| failed(graph, &error))?;
            bound.push(self.bind(holder, graph, contract)?);
        }
        self.placements.borrow_mut().push(placement);
        Ok(bound)
    }
}

fn failed(graph: GraphSource<'_>, error: &ort::Error) -> EngineError {
    EngineError::Load { engine: NAME, graph: graph.name.to_owned(), detail: error.to_string() }
}

impl Ort {
    /// Builds a session and checks its tensors and where its nodes lie; `rows` where it is of any number of rows.
    fn open(
        &self,
        graph: GraphSource<'_>,
        least: &Contract,
        most: &Contract,
        rows: Option<&RowContracts>,
    ) -> Result<(Runtime, Placement), EngineError> {
        let session = self.build(graph, rows).map_err(|error| failed(graph, &error))?;
        let (inputs, outputs) = (declared(session.inputs()), declared(session.outputs()));
        matching_rows(graph.name, Direction::Input, &inputs, least.inputs(), most.inputs())?;
        matching_rows(graph.name, Direction::Output, &outputs, least.outputs(), most.outputs())?;
        let placement = self.placed(graph.name, &session)?;
        Ok((session, placement))
    }

    fn bind(
        &self,
        session: Shared,
        graph: GraphSource<'_>,
        contract: &Contract,
    ) -> Result<Box<dyn Session>, EngineError> {
        let failed = |error: ort::Error| failed(graph, &error);
        Ok(match &self.residence {
            None => Box::new(OrtSession::bind(session, graph, contract).map_err(failed)?),
            Some(residence) => {
                let append = |contract: &Contract, allocator: &Allocator| self.append(contract, allocator);
                Box::new(ResidentSession::bind(session, graph, contract, residence, append).map_err(failed)?)
            }
        })
    }

    fn plain_builder(&self) -> Result<SessionBuilder, ort::Error> {
        Runtime::builder(&self.loaded.environment)?
            .with_intra_threads(1)
            .map_err(ort::Error::<()>::from)?
            .with_inter_threads(1)
            .map_err(ort::Error::<()>::from)?
            .with_intra_op_spinning(false)
            .map_err(ort::Error::<()>::from)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(ort::Error::<()>::from)
    }

    /// The graph that appends keys and values on the device. On a GPU it is CUDA's, whatever holds the decoder: TensorRT does
    /// not promise that an output may lie in the buffer of an input. Without CUDA (the plug-in for RTX stands alone) there is
    /// none, and rows go by way of the host.
    fn append(&self, contract: &Contract, allocator: &Allocator) -> Result<Option<Append>, ort::Error> {
        let request = match self.gpu() {
            Some(request) if request.name == Provider::TensorRtRtx => return Ok(None),
            Some(request) => {
                ProviderRequest { device_id: request.device_id, ..ProviderRequest::required(Provider::Cuda) }
            }
            None => ProviderRequest::required(Provider::Cpu),
        };
        let builder = || {
            registration::register(self.plain_builder()?, &self.loaded.environment, &request, None, None)
                .map_err(|detail| ort::Error::new(format!("appending keys and values on {}: {detail}", request.name)))
        };
        Append::build(contract, builder, allocator)
    }

    fn build(&self, graph: GraphSource<'_>, rows: Option<&RowContracts>) -> Result<Runtime, ort::Error> {
        let mut builder =
            self.plain_builder()?.with_config_entry(placement::RECORD, "1").map_err(ort::Error::<()>::from)?;
        if !self.allows_cpu() {
            builder = builder.with_disable_cpu_fallback().map_err(ort::Error::<()>::from)?;
        }
        for Started { request, cache } in &self.providers {
            let profile = rows.map(|rows| {
                let wanted = request.profile_rows.unwrap_or(ProfileRows::up_to(rows.most_rows()));
                ShapeProfile::of(rows, wanted)
            });
            let (environment, cache) = (&self.loaded.environment, cache.as_deref());
            builder = registration::register(builder, environment, request, cache, profile.as_ref())
                .map_err(|detail| ort::Error::new(format!("provider {}: {detail}", request.name)))?;
        }
        for file in graph.external {
            builder = builder
                .with_external_initializer_file_in_memory(&file.name, Arc::clone(&file.bytes))
                .map_err(ort::Error::<()>::from)?;
        }
        builder.commit_from_memory(graph.onnx)
    }
}

/// ONNX Runtime's message without the place in its source code that comes before it.
fn in_short(message: &str) -> String {
    let message = message.trim();
    message.split_once("[ONNXRuntimeError] : ").map_or(message, |(_, rest)| rest).to_owned()
}

enum Buffer {
    F32(Tensor<f32>),
    I64(Tensor<i64>),
}

enum Output {
    Own(Tensor<f32>),
    /// The buffer of an input, by its slot.
    In(usize),
}

struct OrtSession {
    graph: String,
    runtime: Shared,
    binding: IoBinding,
    inputs: Vec<Buffer>,
    outputs: Vec<Output>,
    /// Outputs are uninitialised memory until the first run.
    has_run: bool,
    /// Initialisers may still point into the files.
    _external: Vec<Arc<[u8]>>,
}

impl OrtSession {
    fn bind(runtime: Shared, graph: GraphSource<'_>, contract: &Contract) -> Result<Self, ort::Error> {
        let mut binding = runtime.with(Runtime::create_binding)?;
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
        for (slot, spec) in contract.outputs().iter().enumerate() {
            let in_place = contract.in_place().iter().find(|(output, _)| output.0 == slot).map(|(_, input)| input.0);
            outputs.push(match in_place.map(|input| (input, &mut inputs[input])) {
                Some((input, Buffer::F32(tensor))) => {
                    binding.bind_output(spec.name.as_str(), tensor)?;
                    Output::In(input)
                }
                _ => {
                    let mut tensor = Tensor::<f32>::new(&allocator, spec.shape.clone())?;
                    binding.bind_output(spec.name.as_str(), &mut tensor)?;
                    Output::Own(tensor)
                }
            });
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
        match self.outputs.get(slot.0)? {
            Output::Own(tensor) => Some(tensor.extract_tensor().1),
            Output::In(input) => match self.inputs.get(*input)? {
                Buffer::F32(tensor) => Some(tensor.extract_tensor().1),
                Buffer::I64(_) => None,
            },
        }
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
        self.runtime.run(&self.binding).map_err(|error| EngineError::Run {
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
            Some(Output::Own(tensor)) if self.has_run => tensor.extract_tensor().1,
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
