//! An engine whose runs are timed, so that everything else in an inference can be told apart from it.
//!
//! For benchmarks: the policy on top is the one that ships and does not know. Each run costs two clock readings and an
//! uncontended lock more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{
    Contract, Engine, EngineDescription, EngineError, GraphSource, InputSlot, OutputSlot, Placement, RowContracts,
    Session, label,
};

/// One run of a graph.
#[derive(Clone, Debug)]
pub struct EngineRun {
    /// The graph; `decode.k8.onnx` for `decode.onnx` of any number of rows, run with eight.
    pub graph: Arc<str>,
    /// When the engine was called.
    pub start: Instant,
    /// How long it took.
    pub time: Duration,
    /// A repetition that [`EngineRuns::repeat`] asked for.
    pub is_repeated: bool,
}

impl EngineRun {
    /// When the engine returned.
    pub fn end(&self) -> Instant {
        self.start + self.time
    }
}

#[derive(Default)]
struct State {
    runs: Vec<EngineRun>,
    repeat: (String, usize),
}

/// What a timed engine has run.
#[derive(Clone, Default)]
pub struct EngineRuns(Arc<Mutex<State>>);

impl EngineRuns {
    /// Takes the runs noted since the last call, oldest first.
    pub fn take(&self) -> Vec<EngineRun> {
        std::mem::take(&mut self.state().runs)
    }

    /// Lets every run of a graph be repeated `times` times with unchanged inputs: the bare engine call, on the same
    /// session in the same state. Outputs are the same again. One graph at a time.
    pub fn repeat(&self, graph: &str, times: usize) {
        self.state().repeat = (graph.into(), times);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves a list of runs behind, which is all there is to protect.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Times the sessions of an engine; `is_portable` leaves graphs that write in place aside.
pub(crate) fn timed(engine: Box<dyn Engine>, is_portable: bool) -> (Box<dyn Engine>, EngineRuns) {
    let runs = EngineRuns::default();
    (Box::new(Timed { engine, is_portable, runs: runs.clone() }), runs)
}

struct Timed {
    engine: Box<dyn Engine>,
    is_portable: bool,
    runs: EngineRuns,
}

impl Engine for Timed {
    fn description(&self) -> EngineDescription {
        self.engine.description()
    }

    fn placements(&self) -> Vec<Placement> {
        self.engine.placements()
    }

    fn writes_in_place(&self) -> bool {
        !self.is_portable && self.engine.writes_in_place()
    }

    fn load(&self, graph: GraphSource<'_>, contract: &Contract) -> Result<Box<dyn Session>, EngineError> {
        let session = self.engine.load(graph, contract)?;
        Ok(Box::new(TimedSession { session, graph: graph.name.into(), runs: self.runs.clone() }))
    }

    fn load_rows(
        &self,
        graph: GraphSource<'_>,
        contracts: &RowContracts,
    ) -> Result<Vec<Box<dyn Session>>, EngineError> {
        let sessions = self.engine.load_rows(graph, contracts)?.into_iter().zip(contracts.wanted());
        let timed = |(session, (rows, _)): (Box<dyn Session>, &(usize, Contract))| -> Box<dyn Session> {
            Box::new(TimedSession { session, graph: label(graph.name, *rows).into(), runs: self.runs.clone() })
        };
        Ok(sessions.map(timed).collect())
    }
}

struct TimedSession {
    session: Box<dyn Session>,
    graph: Arc<str>,
    runs: EngineRuns,
}

impl Session for TimedSession {
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError> {
        self.session.input_f32_mut(slot)
    }

    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError> {
        self.session.input_i64_mut(slot)
    }

    fn input_f32(&mut self, slot: InputSlot) -> Result<&[f32], EngineError> {
        self.session.input_f32(slot)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        let repeat = {
            let state = self.runs.state();
            if *state.repeat.0 == *self.graph { state.repeat.1 } else { 0 }
        };
        for index in 0..=repeat {
            let start = Instant::now();
            let result = self.session.run();
            let time = start.elapsed();
            self.runs.state().runs.push(EngineRun {
                graph: Arc::clone(&self.graph),
                start,
                time,
                is_repeated: index > 0,
            });
            result?;
        }
        Ok(())
    }

    fn append(&mut self, at: usize, kept: usize) -> Result<bool, EngineError> {
        self.session.append(at, kept)
    }

    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError> {
        self.session.output_f32(slot)
    }

    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError> {
        self.session.output_and_input_f32(output, input)
    }
}
