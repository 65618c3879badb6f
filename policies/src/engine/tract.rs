//! tract: ONNX in pure Rust, compiled in. One thread.
//!
//! tract reads external data from disk only, so the initialisers are copied into the parsed model before tract sees
//! it. That keeps a bundle embedded in the binary and one on disk on the same path, and no graph can name a file that
//! is not part of its bundle.

use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{DimLike, Factoid, GenericFactoid, ShapeFactoid};

use super::{
    Contract, Declared, Direction, Dtype, Engine, EngineDescription, EngineError, ExternalFile, GraphSource, InputSlot,
    OutputSlot, RowContracts, Session, matching, matching_rows, no_slot,
};

const NAME: &str = "tract";
/// Version of the crate this file was written against; the workspace pins it exactly.
const VERSION: &str = "0.23.9";
/// The newest operator set whose meaning this version was tried with; tract itself does not compare.
const NEWEST_OPSET: i64 = 23;

/// The tract engine.
#[derive(Copy, Clone, Debug, Default)]
pub struct Tract;

impl Engine for Tract {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            name: NAME,
            version: VERSION.to_owned(),
            library: String::new(),
            providers: vec!["CPU".to_owned()],
            skipped: Vec::new(),
        }
    }

    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError> {
        if !contract.in_place().is_empty() {
            return Err(EngineError::Load {
                engine: NAME,
                graph: graph.name.to_owned(),
                detail: "it writes outputs into its inputs, which this engine does not do".to_owned(),
            });
        }
        let model = parse(graph)?;
        let declared = declared_inputs(&model).map_err(|error| failed(graph, &error))?;
        let inputs = matching(graph.name, Direction::Input, &declared, contract.inputs())?;
        session(model, graph, contract, inputs)
    }

    /// Every number of rows is a static graph of its own: symbolic dimensions are given their sizes before anything is
    /// optimised, so each session holds the weights.
    fn load_rows(
        &self,
        graph: GraphSource<'_>,
        contracts: &RowContracts,
    ) -> Result<Vec<Box<dyn Session>>, EngineError> {
        let model = parse(graph)?;
        let declared = declared_inputs(&model).map_err(|error| failed(graph, &error))?;
        let (least, most) = (contracts.least().inputs(), contracts.most().inputs());
        let inputs = matching_rows(graph.name, Direction::Input, &declared, least, most)?;
        let of_rows = |(_, contract): &(usize, Contract)| {
            let mut model = model.clone();
            for (spec, index) in contract.inputs().iter().zip(&inputs) {
                let datum = match spec.dtype {
                    Dtype::F32 => f32::datum_type(),
                    Dtype::I64 => i64::datum_type(),
                };
                let fact = InferenceFact::dt_shape(datum, &spec.shape);
                model.set_input_fact(*index, fact).map_err(|error| failed(graph, &error))?;
            }
            session(model, graph, contract, inputs.clone())
        };
        contracts.wanted().iter().map(of_rows).collect()
    }
}

fn failed(graph: GraphSource<'_>, error: &TractError) -> EngineError {
    EngineError::Load { engine: NAME, graph: graph.name.to_owned(), detail: format!("{error:#}") }
}

fn parse(graph: GraphSource<'_>) -> Result<InferenceModel, EngineError> {
    // Names inside a graph's `value_info` may clash with tract's own symbols and are only hints.
    let onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let mut proto = onnx.proto_model_for_read(&mut &*graph.onnx).map_err(|error| failed(graph, &error))?;
    check_opset(&proto, graph.name)?;
    inline_external_data(&mut proto, graph)?;
    onnx.model_for_proto_model(&proto).map_err(|error| failed(graph, &error))
}

/// A session of a model whose inputs are static; `inputs` says for every input of the contract which of the model's it is.
fn session(
    model: InferenceModel,
    graph: GraphSource<'_>,
    contract: &Contract,
    inputs: Vec<usize>,
) -> Result<Box<dyn Session>, EngineError> {
    let failed = |error: TractError| failed(graph, &error);
    let names: Vec<String> = output_names(&model).map_err(failed)?;
    let model = model.into_typed().map_err(failed)?;
    let declared = declared_outputs(&model, names).map_err(failed)?;
    let outputs = matching(graph.name, Direction::Output, &declared, contract.outputs())?;

    let state =
        model.into_optimized().and_then(|model| model.into_runnable()).and_then(|plan| plan.spawn()).map_err(failed)?;
    let tensors: TractResult<Vec<Arc<Tensor>>> = contract
        .inputs()
        .iter()
        .map(|spec| match spec.dtype {
            Dtype::F32 => Tensor::zero::<f32>(&spec.shape),
            Dtype::I64 => Tensor::zero::<i64>(&spec.shape),
        })
        .map(|tensor| tensor.map(Arc::new))
        .collect();
    let mut order = vec![0; inputs.len()];
    for (slot, declared) in inputs.into_iter().enumerate() {
        order[declared] = slot;
    }
    Ok(Box::new(TractSession {
        graph: graph.name.to_owned(),
        state,
        inputs: tensors.map_err(failed)?,
        order,
        results: tvec!(),
        outputs,
    }))
}

struct TractSession {
    graph: String,
    state: TypedSimpleState,
    /// By contract slot. The engine holds a second reference only while it runs.
    inputs: Vec<Arc<Tensor>>,
    /// For each input of the model, its contract slot.
    order: Vec<usize>,
    /// Outputs of the last run, in the model's order; empty before it.
    results: TVec<TValue>,
    /// For each contract output, its index in `results`.
    outputs: Vec<usize>,
}

impl TractSession {
    fn input<T: Datum>(inputs: &mut [Arc<Tensor>], slot: InputSlot) -> Option<&mut [T]> {
        // `make_mut` copies only when the engine kept the tensor, as a graph that returns an input unchanged does.
        let tensor = Arc::make_mut(inputs.get_mut(slot.0)?);
        tensor.to_plain_array_view_mut::<T>().ok()?.into_slice()
    }

    fn output<'a>(results: &'a TVec<TValue>, outputs: &[usize], slot: OutputSlot) -> Option<&'a [f32]> {
        results.get(*outputs.get(slot.0)?)?.try_as_plain_ram().ok()?.as_slice::<f32>().ok()
    }
}

impl Session for TractSession {
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError> {
        Self::input(&mut self.inputs, slot).ok_or_else(|| no_slot(&self.graph, Direction::Input, slot.0, Dtype::F32))
    }

    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError> {
        Self::input(&mut self.inputs, slot).ok_or_else(|| no_slot(&self.graph, Direction::Input, slot.0, Dtype::I64))
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.results.clear();
        let values: TVec<TValue> =
            self.order.iter().map(|slot| TValue::from_const(Arc::clone(&self.inputs[*slot]))).collect();
        match self.state.run(values) {
            Ok(results) => {
                self.results = results;
                Ok(())
            }
            Err(error) => {
                // Values of the aborted run must not stay alive: they would share the input tensors.
                let detail = match self.state.reset_turn() {
                    Ok(()) => format!("{error:#}"),
                    Err(reset) => format!("{error:#}; and the state could not be reset: {reset:#}"),
                };
                Err(EngineError::Run { engine: NAME, graph: self.graph.clone(), detail })
            }
        }
    }

    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError> {
        Self::output(&self.results, &self.outputs, slot)
            .ok_or_else(|| no_slot(&self.graph, Direction::Output, slot.0, Dtype::F32))
    }

    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError> {
        let from = Self::output(&self.results, &self.outputs, output)
            .ok_or_else(|| no_slot(&self.graph, Direction::Output, output.0, Dtype::F32))?;
        let into = Self::input(&mut self.inputs, input)
            .ok_or_else(|| no_slot(&self.graph, Direction::Input, input.0, Dtype::F32))?;
        Ok((from, into))
    }
}

/// Refuses a graph of an operator set that tract would read as if it were an older one.
fn check_opset(proto: &pb::ModelProto, graph: &str) -> Result<(), EngineError> {
    let standard = proto.opset_import.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    match standard {
        Some(set) if set.version <= NEWEST_OPSET => Ok(()),
        found => Err(EngineError::Opset {
            engine: NAME,
            graph: graph.to_owned(),
            opset: found.map(|set| set.version),
            newest: NEWEST_OPSET,
        }),
    }
}

/// Copies every external initialiser into the model.
fn inline_external_data(proto: &mut pb::ModelProto, graph: GraphSource<'_>) -> Result<(), EngineError> {
    let Some(body) = proto.graph.as_mut() else { return Ok(()) };
    for tensor in &mut body.initializer {
        if tensor.data_location != Some(pb::tensor_proto::DataLocation::External as i32) {
            continue;
        }
        let entry =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let number = |key: &str, absent: usize| match entry(key) {
            None => Ok(absent),
            Some(text) => text.parse::<usize>().map_err(|_| EngineError::Load {
                engine: NAME,
                graph: graph.name.to_owned(),
                detail: format!("initialiser `{}`: external data {key} `{text}` is not a number", tensor.name),
            }),
        };
        let location = entry("location").unwrap_or_default();
        let file: Option<&ExternalFile> = graph.external.iter().find(|file| file.name == location);
        let len = file.map(|file| file.bytes.len());
        let offset = number("offset", 0)?;
        let length = number("length", len.unwrap_or(0).saturating_sub(offset))?;
        let bytes = file.and_then(|file| file.bytes.get(offset..offset.checked_add(length)?));
        let Some(bytes) = bytes else {
            let (graph, tensor, file) = (graph.name.to_owned(), tensor.name.clone(), location.to_owned());
            return Err(EngineError::External { graph, tensor, file, offset, length, len });
        };
        let bytes = bytes.to_vec();
        check_initialiser_size(tensor, bytes.len(), graph.name)?;
        tensor.raw_data = bytes;
        tensor.external_data.clear();
        tensor.data_location = None;
    }
    Ok(())
}

/// tract copies raw bytes into a tensor of the declared shape without comparing the two lengths.
fn check_initialiser_size(tensor: &pb::TensorProto, got: usize, graph: &str) -> Result<(), EngineError> {
    use pb::tensor_proto::DataType;
    let width = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Float16 | DataType::Int16 | DataType::Uint16) => 2,
        Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => 1,
        Ok(DataType::Int64 | DataType::Uint64 | DataType::Double) => 8,
        _ => 0,
    };
    let elements = tensor.dims.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
    let needed = elements.and_then(|n| n.checked_mul(width));
    if width == 0 || needed != Some(got) {
        return Err(EngineError::Load {
            engine: NAME,
            graph: graph.to_owned(),
            detail: format!("initialiser `{}` of shape {:?} has {got} bytes of data", tensor.name, tensor.dims),
        });
    }
    Ok(())
}

fn dtype_of(datum: DatumType) -> Result<Dtype, String> {
    match datum {
        DatumType::F32 => Ok(Dtype::F32),
        DatumType::I64 => Ok(Dtype::I64),
        other => Err(format!("{other:?}").to_lowercase()),
    }
}

fn static_dims(shape: &ShapeFactoid) -> Vec<Option<usize>> {
    shape.dims().map(|dim| dim.concretize().and_then(|dim| dim.to_usize().ok())).collect()
}

fn declared_inputs(model: &InferenceModel) -> TractResult<Vec<Declared>> {
    model
        .input_outlets()?
        .iter()
        .map(|outlet| {
            let fact = model.outlet_fact(*outlet)?;
            let dtype = match fact.datum_type {
                GenericFactoid::Only(datum) => dtype_of(datum),
                GenericFactoid::Any => Err("undeclared".to_owned()),
            };
            Ok(Declared { name: model.node(outlet.node).name.clone(), dtype, shape: static_dims(&fact.shape) })
        })
        .collect()
}

fn output_names(model: &InferenceModel) -> TractResult<Vec<String>> {
    Ok(model
        .output_outlets()?
        .iter()
        .map(|outlet| model.outlet_label(*outlet).map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned))
        .collect())
}

fn declared_outputs(model: &TypedModel, names: Vec<String>) -> TractResult<Vec<Declared>> {
    names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let fact = model.output_fact(index)?;
            let shape = fact.shape.iter().map(|dim| dim.to_usize().ok()).collect();
            Ok(Declared { name, dtype: dtype_of(fact.datum_type), shape })
        })
        .collect()
}
