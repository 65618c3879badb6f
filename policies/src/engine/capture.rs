//! An engine that keeps what goes into its graphs: the calibration data of quantisation.

use std::collections::BTreeMap;
use std::io::{Error, Seek, Write};
use std::sync::{Arc, Mutex, PoisonError};

use npyz::WriterBuilder as _;
use npyz::npz::NpzWriter;

use super::{
    Contract, Dtype, Engine, EngineDescription, EngineError, GraphSource, InputSlot, OutputSlot, Placement,
    RowContracts, Session, TensorSpec, label,
};

/// One set of inputs of a graph, in slot order.
enum Values {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// What went into one graph.
struct Graph {
    inputs: Vec<TensorSpec>,
    runs: u64,
    kept: Vec<Vec<Values>>,
}

/// Inputs of every graph, at most so many sets each, spread over the runs.
///
/// Which runs are kept follows from their number alone: every run until the store is full, then every second one in the
/// place of those between, and so on, so that a long recording is covered from end to end.
pub struct Captured {
    most: usize,
    graphs: BTreeMap<String, Graph>,
}

impl Captured {
    /// Names of the graphs, with runs seen and sets kept.
    pub fn summary(&self) -> impl Iterator<Item = (&str, u64, usize)> {
        self.graphs.iter().map(|(name, graph)| (name.as_str(), graph.runs, graph.kept.len()))
    }

    /// Writes the sets of one graph as `.npz`: one array per input, `[sets, …]`.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_npz(&self, graph: &str, writer: impl Write + Seek) -> Result<(), Error> {
        let Some(graph) = self.graphs.get(graph) else { return Err(Error::other(format!("no graph {graph}"))) };
        let options =
            npyz::zip::write::FileOptions::default().compression_method(npyz::zip::CompressionMethod::Deflated);
        let mut npz = NpzWriter::new(writer);
        for (index, spec) in graph.inputs.iter().enumerate() {
            let shape: Vec<u64> =
                core::iter::once(graph.kept.len()).chain(spec.shape.iter().copied()).map(|n| n as u64).collect();
            match spec.dtype {
                Dtype::F32 => {
                    let mut array = npz.array(&spec.name, options)?.default_dtype().shape(&shape).begin_nd()?;
                    for set in &graph.kept {
                        if let Values::F32(values) = &set[index] {
                            array.extend(values.iter().copied())?;
                        }
                    }
                    array.finish()?;
                }
                Dtype::I64 => {
                    let mut array = npz.array(&spec.name, options)?.default_dtype().shape(&shape).begin_nd()?;
                    for set in &graph.kept {
                        if let Values::I64(values) = &set[index] {
                            array.extend(values.iter().copied())?;
                        }
                    }
                    array.finish()?;
                }
            }
        }
        npz.zip_writer().finish().map_err(|error| Error::other(error.to_string()))?.flush()
    }
}

impl Graph {
    /// Whether the next run is kept; makes room for it.
    fn takes_next(&mut self, most: usize) -> bool {
        let stride = (self.runs / most as u64 + 1).next_power_of_two();
        let run = self.runs;
        self.runs += 1;
        if !run.is_multiple_of(stride) {
            return false;
        }
        if self.kept.len() == most {
            let mut place = 0;
            self.kept.retain(|_| {
                place += 1;
                place % 2 == 1
            });
        }
        true
    }
}

/// Wraps an engine.
pub(crate) struct Capturing {
    inner: Box<dyn Engine>,
    store: Arc<Mutex<Captured>>,
}

impl Capturing {
    /// Keeps at most `most` sets of inputs of every graph.
    pub(crate) fn new(inner: Box<dyn Engine>, most: usize) -> (Self, Arc<Mutex<Captured>>) {
        let store = Arc::new(Mutex::new(Captured { most: most.max(2), graphs: BTreeMap::new() }));
        (Self { inner, store: Arc::clone(&store) }, store)
    }
}

impl Engine for Capturing {
    fn description(&self) -> EngineDescription {
        self.inner.description()
    }

    fn placements(&self) -> Vec<Placement> {
        self.inner.placements()
    }

    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError> {
        let inner = self.inner.load(graph, contract)?;
        Ok(self.around(inner, graph.name.to_owned(), contract))
    }

    /// Inputs of each number of rows are kept apart: they are of different shapes.
    fn load_rows(
        &self,
        graph: GraphSource<'_>,
        contracts: &RowContracts,
    ) -> Result<Vec<Box<dyn Session>>, EngineError> {
        let sessions = self.inner.load_rows(graph, contracts)?.into_iter().zip(contracts.wanted());
        Ok(sessions.map(|(inner, (rows, contract))| self.around(inner, label(graph.name, *rows), contract)).collect())
    }
}

impl Capturing {
    fn around(&self, inner: Box<dyn Session>, name: String, contract: &Contract) -> Box<dyn Session> {
        let inputs = contract.inputs().to_vec();
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.graphs.insert(name.clone(), Graph { inputs: inputs.clone(), runs: 0, kept: Vec::new() });
        Box::new(CapturingSession { inner, inputs, name, store: Arc::clone(&self.store) })
    }
}

struct CapturingSession {
    inner: Box<dyn Session>,
    inputs: Vec<TensorSpec>,
    name: String,
    store: Arc<Mutex<Captured>>,
}

impl Session for CapturingSession {
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError> {
        self.inner.input_f32_mut(slot)
    }

    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError> {
        self.inner.input_i64_mut(slot)
    }

    fn input_f32(&mut self, slot: InputSlot) -> Result<&[f32], EngineError> {
        self.inner.input_f32(slot)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let most = store.most;
        if let Some(graph) = store.graphs.get_mut(&self.name)
            && graph.takes_next(most)
        {
            let mut set = Vec::with_capacity(self.inputs.len());
            for (index, spec) in self.inputs.iter().enumerate() {
                set.push(match spec.dtype {
                    Dtype::F32 => Values::F32(self.inner.input_f32_mut(InputSlot(index))?.to_vec()),
                    Dtype::I64 => Values::I64(self.inner.input_i64_mut(InputSlot(index))?.to_vec()),
                });
            }
            graph.kept.push(set);
        }
        drop(store);
        self.inner.run()
    }

    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError> {
        self.inner.output_f32(slot)
    }

    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError> {
        self.inner.output_and_input_f32(output, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_kept_are_spread_evenly_over_all_runs() {
        for (runs, expected) in [(3, vec![0, 1, 2]), (4, vec![0, 1, 2, 3]), (5, vec![0, 2, 4]), (9, vec![0, 4, 8])] {
            let mut graph = Graph { inputs: Vec::new(), runs: 0, kept: Vec::new() };
            for run in 0..runs {
                if graph.takes_next(4) {
                    graph.kept.push(vec![Values::I64(vec![run])]);
                }
            }
            let kept: Vec<i64> = graph
                .kept
                .iter()
                .map(|set| match &set[0] {
                    Values::I64(v) => v[0],
                    Values::F32(_) => -1,
                })
                .collect();
            assert_eq!(kept, expected);
        }
    }
}
