//! Inference engines behind one trait: load a graph against a contract, bind its tensors once, run.
//!
//! A [`Contract`] states which tensors a graph must declare. An engine checks the graph against it at load, so that a
//! wrong name, element type or shape is a typed error before the robot moves and never a failure in the loop. The
//! tensors are then reached by [`InputSlot`] and [`OutputSlot`], which the contract handed out: no name is looked up
//! while running.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

mod capture;
#[cfg(feature = "ort")]
pub mod ort;
mod providers;
mod rows;
#[cfg(feature = "tract")]
pub mod tract;

pub use capture::Captured;
pub(crate) use capture::Capturing;
pub use providers::{
    ComputePrecision, EngineFile, Provider, ProviderList, ProviderRequest, ProvidersError, Requirement,
};
pub(crate) use rows::label;
pub use rows::{ProfileRows, RowContracts, ShapeProfile};

/// Element type of a graph's tensor.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
        })
    }
}

/// One tensor a graph must declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Static shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An input of a [`Contract`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct InputSlot(usize);

/// An output of a [`Contract`]; outputs are always f32.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OutputSlot(usize);

/// The tensors a graph must declare: exactly these, by name, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// Outputs that the graph writes into the buffer of an input.
    in_place: Vec<(OutputSlot, InputSlot)>,
    /// Outputs whose rows are appended to those of an input.
    appends: Vec<(OutputSlot, InputSlot)>,
}

impl Contract {
    /// A contract without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an f32 input and returns its slot.
    pub fn input_f32(&mut self, name: impl Into<String>, shape: &[usize]) -> InputSlot {
        self.inputs.push(TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec() });
        InputSlot(self.inputs.len() - 1)
    }

    /// Adds an i64 input and returns its slot.
    pub fn input_i64(&mut self, name: impl Into<String>, shape: &[usize]) -> InputSlot {
        self.inputs.push(TensorSpec { name: name.into(), dtype: Dtype::I64, shape: shape.to_vec() });
        InputSlot(self.inputs.len() - 1)
    }

    /// Adds an f32 output and returns its slot.
    pub fn output_f32(&mut self, name: impl Into<String>, shape: &[usize]) -> OutputSlot {
        self.outputs.push(TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec() });
        OutputSlot(self.outputs.len() - 1)
    }

    /// Adds an output of the shape of an f32 input, which the graph writes into that input's buffer: what one run leaves
    /// there is what the next one is given. Only for an engine that [writes in place](Engine::writes_in_place).
    pub fn output_in_place(&mut self, name: impl Into<String>, input: InputSlot) -> OutputSlot {
        let shape = self.inputs[input.0].shape.clone();
        let output = self.output_f32(name, &shape);
        self.in_place.push((output, input));
        output
    }

    /// Says that rows of `new`, `[1, heads, K, head_dim]`, will be appended to those of `slab`, `[1, heads, capacity,
    /// head_dim]`, between runs ([`Session::append`]): an engine on a device can keep both there.
    pub fn append(&mut self, new: OutputSlot, slab: InputSlot) {
        self.appends.push((new, slab));
    }

    /// Outputs with the inputs that their rows are appended to.
    pub fn appends(&self) -> &[(OutputSlot, InputSlot)] {
        &self.appends
    }

    /// The outputs that lie in the buffer of an input.
    pub fn in_place(&self) -> &[(OutputSlot, InputSlot)] {
        &self.in_place
    }

    /// The inputs, in slot order.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// The outputs, in slot order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }
}

/// A file that initialisers of a graph point into, held in memory.
#[derive(Clone)]
pub struct ExternalFile {
    /// The name the graph uses as the data's location.
    pub name: String,
    /// The whole file.
    pub bytes: Arc<[u8]>,
}

/// One graph to load.
#[derive(Copy, Clone)]
pub struct GraphSource<'a> {
    /// The name errors use.
    pub name: &'a str,
    /// The serialised ONNX model.
    pub onnx: &'a [u8],
    /// The files its external initialisers may name; no other file is read.
    pub external: &'a [ExternalFile],
}

/// Side of a graph a tensor stands on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Fed by the caller.
    Input,
    /// Computed by the graph.
    Output,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// Why an engine could not load or run a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The engine could not build the graph.
    #[error("{engine} could not load graph `{graph}`: {detail}")]
    Load {
        /// The engine.
        engine: &'static str,
        /// The graph.
        graph: String,
        /// What the engine said.
        detail: String,
    },
    /// The graph is written in an operator set that the engine does not know.
    #[error("graph `{graph}` is of opset {}, and {engine} reads opsets up to {newest}; export it again with an older one", .opset.map_or_else(|| "nothing".to_owned(), |opset| opset.to_string()))]
    Opset {
        /// The engine.
        engine: &'static str,
        /// The graph.
        graph: String,
        /// The version it declares, where it declares one.
        opset: Option<i64>,
        /// The newest version that works.
        newest: i64,
    },
    /// A tensor the contract asks for is not declared.
    #[error("graph `{graph}` declares no {direction} `{tensor}`; it declares {declared:?}")]
    MissingTensor {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The tensor asked for.
        tensor: String,
        /// The names the graph declares.
        declared: Vec<String>,
    },
    /// The graph declares a tensor the contract does not know.
    #[error("graph `{graph}` declares the {direction} `{tensor}`, which its contract does not know")]
    UnknownTensor {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another element type.
    #[error("{direction} `{tensor}` of graph `{graph}` is {got} and must be {expected}")]
    Dtype {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The tensor.
        tensor: String,
        /// The contract's type.
        expected: Dtype,
        /// The graph's type.
        got: String,
    },
    /// A tensor has another shape, or one that is not static.
    #[error("{direction} `{tensor}` of graph `{graph}` has shape {got} and must have {expected:?}")]
    Shape {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The tensor.
        tensor: String,
        /// The contract's shape.
        expected: Vec<usize>,
        /// The graph's shape.
        got: String,
    },
    /// A dimension is static that has to be symbolic.
    #[error(
        "dimension {axis} of {direction} `{tensor}` of graph `{graph}` is {got} and must be symbolic, since the graph is run with several numbers of rows; make it with `endplate-block --dynamic`"
    )]
    Fixed {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The tensor.
        tensor: String,
        /// Which dimension, from 0.
        axis: usize,
        /// Its size.
        got: usize,
    },
    /// An option of a provider does not go with the rows that the bundle runs its graphs with.
    #[error("execution provider `{provider}`: {key} = {value}: {detail}")]
    Rows {
        /// The provider.
        provider: &'static str,
        /// The option.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not, and what to write instead.
        detail: String,
    },
    /// An initialiser lies outside the file that should hold it, or names a file that was not given.
    #[error("initialiser `{tensor}` of graph `{graph}` is bytes {offset}+{length} of `{file}`, which {}", match .len { Some(len) => format!("has {len} bytes"), None => "was not given".to_owned() })]
    External {
        /// The graph.
        graph: String,
        /// The initialiser.
        tensor: String,
        /// The file it names.
        file: String,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        length: usize,
        /// Length of the file, where it was given.
        len: Option<usize>,
    },
    /// The graph failed while running.
    #[error("{engine} failed to run graph `{graph}`: {detail}")]
    Run {
        /// The engine.
        engine: &'static str,
        /// The graph.
        graph: String,
        /// What the engine said.
        detail: String,
    },
    /// A slot of another contract, or a tensor used as the other element type.
    #[error("graph `{graph}` has no {dtype} {direction} in slot {index}")]
    Slot {
        /// The graph.
        graph: String,
        /// Input or output.
        direction: Direction,
        /// The slot.
        index: usize,
        /// The element type asked for.
        dtype: Dtype,
    },
    /// The ONNX Runtime library could not be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A required execution provider could not start.
    #[error("execution provider `{provider}` cannot start with {library}: {detail}; it needs {needs}")]
    Provider {
        /// The provider.
        provider: &'static str,
        /// The library and its version.
        library: String,
        /// What ONNX Runtime said.
        detail: String,
        /// What it needs.
        needs: &'static str,
    },
    /// None of the preferred providers could start, and the list allows nothing else.
    #[error("none of the preferred execution providers can start, and nothing else is in the list: {}; add `cpu` to the list to let it run there", .skipped.join("; "))]
    NoProvider {
        /// Each provider with its reason.
        skipped: Vec<String>,
    },
    /// Nodes lie on a provider that the list or the bundle does not allow.
    #[error("graph `{graph}`: {detail}; its nodes lie on {placement}")]
    Placement {
        /// The graph.
        graph: String,
        /// What was wanted.
        detail: String,
        /// Where they lie.
        placement: String,
    },
    /// A folder of built engines cannot be used.
    #[error("engine cache {folder}: {detail}; {remedy}")]
    Cache {
        /// The folder.
        folder: String,
        /// What is wrong.
        detail: String,
        /// What to do.
        remedy: String,
    },
}

/// Why no ONNX Runtime library could be used; every message ends with the remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LibraryError {
    /// No library was found anywhere.
    #[error("no ONNX Runtime library found (looked at {}); install it with `pip install onnxruntime`, or name the library with ORT_DYLIB_PATH or in the configuration", .looked.join(", "))]
    Missing {
        /// The places searched, in order.
        looked: Vec<String>,
    },
    /// The configured library does not exist.
    #[error(
        "the ONNX Runtime library {path} given by {origin} does not exist; correct the path or leave it out to search for one"
    )]
    NoSuchFile {
        /// The path.
        path: String,
        /// Who named it.
        origin: &'static str,
    },
    /// The library is older than the interface this build was made for.
    #[error(
        "the ONNX Runtime library {path} has version {version} and 1.{needed} or newer is needed; upgrade it with `pip install --upgrade onnxruntime`"
    )]
    TooOld {
        /// The path.
        path: String,
        /// Its version.
        version: String,
        /// The oldest minor version that works.
        needed: u32,
    },
    /// The file could not be loaded as ONNX Runtime.
    #[error(
        "{path} cannot be loaded as ONNX Runtime: {detail}; name a working library with ORT_DYLIB_PATH or in the configuration"
    )]
    Unloadable {
        /// The path.
        path: String,
        /// What the loader said.
        detail: String,
    },
    /// One process can hold one library.
    #[error(
        "ONNX Runtime was already loaded from {loaded} and cannot be loaded again from {requested}; use one library in a process"
    )]
    AlreadyLoaded {
        /// The library in use.
        loaded: String,
        /// The library asked for.
        requested: String,
    },
}

/// What an engine is, in words for the log and the summaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDescription {
    /// `"tract"` or `"ort"`.
    pub name: &'static str,
    /// The engine's version.
    pub version: String,
    /// The library in use and how it was found; empty for an engine that is compiled in.
    pub library: String,
    /// Execution providers that started, in order; which of them hold nodes is known once graphs are loaded, see
    /// [`Engine::placements`].
    pub providers: Vec<String>,
    /// Preferred providers that could not start, with the reason.
    pub skipped: Vec<String>,
}

/// Where the nodes of one loaded graph lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The graph.
    pub graph: String,
    /// Nodes by provider, in the engine's words.
    pub nodes: BTreeMap<String, usize>,
}

impl Placement {
    /// The share of the graph's nodes that a provider holds, 0 to 1; 0 for a graph without nodes.
    pub fn share(&self, provider: &str) -> f64 {
        let all: usize = self.nodes.values().sum();
        let held = self.nodes.get(provider).copied().unwrap_or(0);
        if all == 0 { 0.0 } else { held as f64 / all as f64 }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.nodes.values().sum();
        for (index, (provider, nodes)) in self.nodes.iter().enumerate() {
            write!(f, "{}{provider} ({nodes} of {all})", if index == 0 { "" } else { ", " })?;
        }
        if self.nodes.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Loads graphs.
pub trait Engine: Send {
    /// What this engine is.
    fn description(&self) -> EngineDescription;

    /// Where the nodes of the graphs loaded so far lie; empty for an engine that has no choice.
    fn placements(&self) -> Vec<Placement> {
        Vec::new()
    }

    /// Whether an output can be written into the buffer of an input ([`Contract::output_in_place`]).
    fn writes_in_place(&self) -> bool {
        false
    }

    /// Builds a session of `graph` whose tensors are exactly those of `contract`.
    ///
    /// # Errors
    /// [`EngineError`] naming the graph and the tensor.
    ///
    /// # Real-time
    /// Allocates and may take seconds: start-up only.
    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError>;

    /// Builds one session for each number of rows wanted of a graph of symbolic shape, in their order. Each has tensors of its
    /// own; the weights exist once where the engine can share them ([`EngineChoice::shares_weights`]).
    ///
    /// # Errors
    /// [`EngineError`] naming the graph and the tensor.
    ///
    /// # Real-time
    /// As [`load`](Self::load).
    ///
    /// [`EngineChoice::shares_weights`]: crate::EngineChoice::shares_weights
    fn load_rows(&self, graph: GraphSource<'_>, contracts: &RowContracts)
    -> Result<Vec<Box<dyn Session>>, EngineError>;
}

/// A loaded graph with its tensors bound.
///
/// Inputs keep their values between runs. Outputs are those of the last successful [`Session::run`]; before it they
/// are not available.
///
/// # Real-time
/// Engines allocate inside `run`: inference thread only.
pub trait Session: Send {
    /// An f32 input, row-major, all of it.
    ///
    /// # Errors
    /// [`EngineError::Slot`] for a slot that is not an f32 input of this graph.
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError>;

    /// An i64 input, row-major, all of it.
    ///
    /// # Errors
    /// [`EngineError::Slot`] for a slot that is not an i64 input of this graph.
    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError>;

    /// An f32 input to read, row-major, all of it: what was written last or, where the engine keeps rows that it
    /// [appended](Self::append) on its device, what lies there.
    ///
    /// # Errors
    /// [`EngineError::Slot`] as for [`input_f32_mut`](Self::input_f32_mut).
    fn input_f32(&mut self, slot: InputSlot) -> Result<&[f32], EngineError> {
        self.input_f32_mut(slot).map(|values| &*values)
    }

    /// Runs the graph once.
    ///
    /// # Errors
    /// [`EngineError::Run`] with the engine's message; the outputs are then not to be used.
    fn run(&mut self) -> Result<(), EngineError>;

    /// An output of the last run, row-major.
    ///
    /// # Errors
    /// [`EngineError::Slot`] for a slot that is not an output of this graph, or before the first run.
    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError>;

    /// An output of the last run together with an f32 input, so that one can be copied into the other (a key-value
    /// cache grows this way).
    ///
    /// # Errors
    /// [`EngineError::Slot`] as above.
    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError>;

    /// Puts the first `kept` rows that the last run made behind the first `at` rows of their slabs, for every pair of
    /// [`Contract::append`], where the engine keeps those on its device; `false` where it does not, and the caller copies.
    ///
    /// # Errors
    /// [`EngineError::Run`] with the engine's message.
    fn append(&mut self, _at: usize, _kept: usize) -> Result<bool, EngineError> {
        Ok(false)
    }
}

/// A tensor as a graph declares it, in an engine's words.
struct Declared {
    name: String,
    dtype: Result<Dtype, String>,
    /// `None` for a dimension that is not static.
    shape: Vec<Option<usize>>,
}

/// Checks declared tensors against the contract's; returns for each contract slot the index of its declaration.
fn matching(
    graph: &str,
    direction: Direction,
    declared: &[Declared],
    wanted: &[TensorSpec],
) -> Result<Vec<usize>, EngineError> {
    matching_rows(graph, direction, declared, wanted, wanted)
}

/// As [`matching`], against the contracts of the fewest and the most rows: where they differ a dimension is symbolic.
fn matching_rows(
    graph: &str,
    direction: Direction,
    declared: &[Declared],
    wanted: &[TensorSpec],
    most: &[TensorSpec],
) -> Result<Vec<usize>, EngineError> {
    if let Some(unknown) = declared.iter().find(|d| wanted.iter().all(|w| w.name != d.name)) {
        return Err(EngineError::UnknownTensor { graph: graph.to_owned(), direction, tensor: unknown.name.clone() });
    }
    let mut order = Vec::with_capacity(wanted.len());
    for (spec, most) in wanted.iter().zip(most) {
        let Some(index) = declared.iter().position(|d| d.name == spec.name) else {
            return Err(EngineError::MissingTensor {
                graph: graph.to_owned(),
                direction,
                tensor: spec.name.clone(),
                declared: declared.iter().map(|d| d.name.clone()).collect(),
            });
        };
        let found = &declared[index];
        if found.dtype != Ok(spec.dtype) {
            return Err(EngineError::Dtype {
                graph: graph.to_owned(),
                direction,
                tensor: spec.name.clone(),
                expected: spec.dtype,
                got: found.dtype.as_ref().map_or_else(Clone::clone, ToString::to_string),
            });
        }
        if let Some(axis) = rows::fixed_dimension(&found.shape, spec, most)
            && let Some(got) = found.shape[axis]
        {
            return Err(EngineError::Fixed {
                graph: graph.to_owned(),
                direction,
                tensor: spec.name.clone(),
                axis,
                got,
            });
        }
        let mut sizes = found.shape.iter().zip(spec.shape.iter().zip(&most.shape));
        if found.shape.len() != spec.shape.len()
            || sizes.any(|(declared, (least, most))| !rows::is_as_declared(*declared, *least, *most))
        {
            let words: Vec<String> =
                found.shape.iter().map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string())).collect();
            return Err(EngineError::Shape {
                graph: graph.to_owned(),
                direction,
                tensor: spec.name.clone(),
                expected: spec.shape.clone(),
                got: format!("[{}]", words.join(", ")),
            });
        }
        order.push(index);
    }
    Ok(order)
}

/// The first value of a slot error: written once for both engines.
fn no_slot(graph: &str, direction: Direction, index: usize, dtype: Dtype) -> EngineError {
    EngineError::Slot { graph: graph.to_owned(), direction, index, dtype }
}
