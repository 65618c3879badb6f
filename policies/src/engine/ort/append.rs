//! Rows of keys and values into their slabs, on the device: a graph of one `ScatterND` a tensor, made here, whose outputs
//! lie in the buffers of its inputs.

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::memory::Allocator;
use ort::session::builder::SessionBuilder;
use ort::session::{IoBinding, Session as Runtime};
use ort::value::{Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType};

use super::resident::Twin;
use crate::engine::Contract;

/// Axis of the rows in `[1, heads, rows, head_dim]`.
const ROWS: usize = 2;
/// `ScatterND` as every provider knows it.
const OPSET: u32 = 13;

/// The graph and where the rows go.
pub(super) struct Append {
    runtime: Runtime,
    binding: IoBinding,
    /// `[1, heads, K, 3]`: batch, head and row of every row given.
    places: Twin<i64>,
    heads: usize,
    /// `K`.
    rows: usize,
    capacity: usize,
}

impl Append {
    /// The graph for the pairs of a contract, which all have one shape; `None` where it has none.
    pub(super) fn build(
        contract: &Contract,
        builder: impl FnOnce() -> Result<SessionBuilder, ort::Error>,
        allocator: &Allocator,
    ) -> Result<Option<Self>, ort::Error> {
        let Some((new, slab)) = contract.appends().first() else { return Ok(None) };
        let (new, slab) = (&contract.outputs()[new.0].shape, &contract.inputs()[slab.0].shape);
        let uniform = contract.appends().iter().all(|(output, input)| {
            contract.outputs()[output.0].shape == *new && contract.inputs()[input.0].shape == *slab
        });
        if !uniform || new.len() != 4 || slab.len() != 4 {
            return Err(ort::Error::new("keys and values of several shapes cannot be appended on the device"));
        }
        let (heads, rows, capacity) = (slab[1], new[ROWS], slab[ROWS]);
        let place_shape = [1, heads, rows, 3];
        let (mut inputs, mut outputs) = (vec![outlet("places", TensorElementType::Int64, &place_shape)], Vec::new());
        let mut graph = Graph::new()?;
        for index in 0..contract.appends().len() {
            let [from, old, name] = names(index);
            inputs.push(outlet(&old, TensorElementType::Float32, slab));
            inputs.push(outlet(&from, TensorElementType::Float32, new));
            outputs.push(outlet(&name, TensorElementType::Float32, slab));
            graph.add_node(Node::new("ScatterND", ONNX_DOMAIN, &name, [&*old, "places", &*from], [&*name], [])?)?;
        }
        graph.set_inputs(inputs)?;
        graph.set_outputs(outputs)?;
        let mut model = Model::new([Opset::new(ONNX_DOMAIN, OPSET)?])?;
        model.set_graph(graph)?;
        let runtime = model.into_session(&builder()?)?;
        let mut binding = runtime.create_binding()?;
        let places = Twin::<i64>::zeros(allocator, &place_shape)?;
        binding.bind_input("places", &places.device)?;
        Ok(Some(Self { runtime, binding, places, heads, rows, capacity }))
    }

    /// Binds pair number `index`.
    pub(super) fn bind(&mut self, index: usize, new: &Tensor<f32>, slab: &mut Tensor<f32>) -> Result<(), ort::Error> {
        let [from, old, name] = names(index);
        self.binding.bind_input(from, new)?;
        self.binding.bind_input(old, &*slab)?;
        self.binding.bind_output(name, slab)
    }

    /// Puts the first `kept` rows behind the `at` rows in use. The others are written behind those, where nothing is in use
    /// and the next rows overwrite them.
    pub(super) fn run(&mut self, at: usize, kept: usize) -> Result<(), ort::Error> {
        let last = self.capacity - 1;
        if at + kept > self.capacity || (at + kept == self.capacity && kept < self.rows) {
            return Err(ort::Error::new("the slab has no row left for what is not kept"));
        }
        let rows = self.rows;
        for (head, places) in self.places.write().chunks_exact_mut(rows * 3).enumerate().take(self.heads) {
            for (row, place) in places.chunks_exact_mut(3).enumerate() {
                place.copy_from_slice(&[0, head as i64, (at + row).min(last) as i64]);
            }
        }
        self.places.send()?;
        self.runtime.run_binding(&self.binding).map(drop)
    }
}

fn names(index: usize) -> [String; 3] {
    [format!("new_{index}"), format!("slab_{index}"), format!("grown_{index}")]
}

fn outlet(name: &str, ty: TensorElementType, shape: &[usize]) -> Outlet {
    let dims = shape.iter().map(|size| *size as i64);
    Outlet::new(
        name,
        ValueType::Tensor { ty, shape: Shape::new(dims), dimension_symbols: SymbolicDimensions::empty(shape.len()) },
    )
}
