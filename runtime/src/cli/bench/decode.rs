//! `endplate bench decode`: what a step of a policy's inner loop, a token or a denoising step, costs over the engine
//! call inside it, and against ONNX Runtime driven from Python.
//!
//! A step is the time from one return of the engine to its next return: reading logits or velocity, choosing the token,
//! the tokenizer, the next inputs, mask and cache, and the call itself. Against it stands the bare call: the same bound
//! session in the same state, called again with unchanged inputs. Windows of both, and of the peer, take turns. A bundle
//! whose decoder has a graph that writes in place is measured with it, then with the portable one.

use super::peer::Peer;
use super::scene::Scene;
use super::{BenchArguments, Ratio, Row, Samples, quantile, rounded};
use crate::cli::bundle::EngineName;
use crate::cli::error::CliError;
use endplate_policies::EngineRun;
use endplate_policies::bundle::Precision;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const PEER: &str = include_str!("../../../../policies/bench/decode_peer.py");
const NEEDS: &str = "numpy and onnxruntime";
const IN_PLACE: &str = "decode_gqa.onnx";
/// Untimed inferences before the first window.
const WARM_UP: usize = 3;
/// Largest step over bare call aimed at.
const AIM: f64 = 1.05;
/// Smallest rate over the best of the peer's aimed at.
const RATE_AIM: f64 = 0.85;
/// Bytes read to measure the machine's bandwidth, far more than its caches hold.
const READ_BYTES: usize = 512 << 20;
/// Weights of a token below this may lie in caches, and then say nothing about bandwidth.
const STREAMED_BYTES: f64 = 64e6;

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut peer = peer(arguments)?;
    let mut scene = Scene::open(arguments, false)?;
    let graph = looped_graph(&mut scene)?;
    let mut measured = vec![Measured::take(&mut scene, &graph, peer.as_mut(), arguments)?];
    if *graph == *IN_PLACE {
        drop(scene); // before the next one is loaded: there may not be room for two
        let mut portable = Scene::open(arguments, true)?;
        let graph = looped_graph(&mut portable)?;
        measured.push(Measured::take(&mut portable, &graph, peer.as_mut(), arguments)?);
    }
    let best = measured.iter().filter_map(Measured::peer_us).reduce(f64::min);
    Ok(measured.iter().map(|one| one.row(best)).collect())
}

/// The peer, where one is asked for.
fn peer(arguments: &BenchArguments) -> Result<Option<Peer>, CliError> {
    let Some(python) = &arguments.peer else { return Ok(None) };
    if arguments.policy.engine != EngineName::Ort || arguments.policy.bundle.is_none() {
        let remedy = "--peer drives ONNX Runtime on the bundle's own files: add --engine ort and --bundle";
        return Err(CliError::Input(remedy.to_owned()));
    }
    Peer::start(python, PEER, NEEDS).map(Some)
}

impl Peer {
    /// Loads a decoder graph of a bundle; returns what runs it, in words.
    fn load_decoder(&mut self, arguments: &BenchArguments, graph: &str) -> Result<String, CliError> {
        // Runs of a graph of any number of rows are told apart by that number; the file is one.
        let file = graph.replace(".k1.onnx", ".onnx");
        let answer = self.ask(&json!({"do": "load", "folder": arguments.policy.bundle, "graph": file}))?;
        let version = |name: &str| answer["versions"][name].as_str().unwrap_or("?").to_owned();
        Ok(format!(
            "third-party: onnxruntime {} from Python {}, numpy {}, bound tensors, the same graph",
            version("onnxruntime"),
            version("python"),
            version("numpy")
        ))
    }

    /// Microseconds of each step.
    fn steps(&mut self, count: usize) -> Result<Vec<f64>, CliError> {
        let mut answer = self.ask(&json!({"do": "steps", "count": count}))?;
        let times: Vec<f64> = serde_json::from_value(answer["ns"].take()).map_err(CliError::failed)?;
        Ok(times.iter().map(|ns| ns / 1e3).collect())
    }
}

/// All windows of one graph.
struct Measured {
    about: Row,
    graph: Arc<str>,
    step: Side,
    bare: Side,
    /// Of a step, what is not the engine.
    host: Samples,
    peer: Option<Side>,
    /// Bytes a token reads, where it reads more than caches hold.
    weights: Option<f64>,
    /// The machine's read bandwidth in each window, GB/s, one thread.
    read: Vec<f64>,
}

/// Calls, and the median of each window, µs.
#[derive(Default)]
struct Side {
    calls: Samples,
    medians: Vec<f64>,
}

impl Side {
    fn window(&mut self, calls: Vec<f64>) {
        self.medians.push(quantile(&calls, 0.5));
        self.calls.extend(calls);
    }
}

impl Measured {
    fn take(
        scene: &mut Scene,
        graph: &Arc<str>,
        mut peer: Option<&mut Peer>,
        arguments: &BenchArguments,
    ) -> Result<Self, CliError> {
        let engine = &scene.loaded.engine;
        let mut about = Row::new();
        about.insert("bundle".to_owned(), scene.bundle.spec().name.clone().into());
        about.insert("engine".to_owned(), format!("{} {}", engine.name, engine.version).into());
        about.insert("graph".to_owned(), (**graph).into());
        about.insert("windows".to_owned(), arguments.windows.into());
        about.insert("calls_per_window".to_owned(), arguments.calls.into());
        if let Some(peer) = peer.as_deref_mut() {
            about.insert("peer".to_owned(), peer.load_decoder(arguments, graph)?.into());
            peer.steps(10)?;
        }
        let weights = weights_of_a_token(scene).filter(|bytes| *bytes > STREAMED_BYTES);
        let block = vec![1u64; if weights.is_some() { READ_BYTES / 8 } else { 0 }];
        let mut measured = Self {
            about,
            graph: Arc::clone(graph),
            step: Side::default(),
            bare: Side::default(),
            host: Samples::default(),
            peer: peer.is_some().then(Side::default),
            weights,
            read: Vec::new(),
        };
        let mut index = 0;
        for _ in 0..arguments.windows {
            measured.step_window(scene, &mut index, arguments.calls)?;
            if let (Some(peer), Some(side)) = (peer.as_deref_mut(), measured.peer.as_mut()) {
                side.window(peer.steps(arguments.calls)?);
            }
            measured.bare_window(scene, &mut index, arguments.calls)?;
            if !block.is_empty() {
                let start = Instant::now();
                black_box(black_box(&block).iter().fold(0u64, |sum, value| sum.wrapping_add(*value)));
                measured.read.push(READ_BYTES as f64 / start.elapsed().as_secs_f64() / 1e9);
            }
        }
        Ok(measured)
    }

    fn step_window(&mut self, scene: &mut Scene, index: &mut usize, calls: usize) -> Result<(), CliError> {
        scene.runs.repeat(&self.graph, 0);
        let mut window = Vec::new();
        while window.len() < calls {
            let runs = answered(scene, *index)?;
            for pair in runs.windows(2).filter(|pair| pair.iter().all(|run| run.graph == self.graph)) {
                let step = (pair[1].end() - pair[0].end()).as_secs_f64();
                window.push(step * 1e6);
                self.host.extend([(step - pair[1].time.as_secs_f64()) * 1e6]);
            }
            *index += 1;
        }
        self.step.window(window);
        Ok(())
    }

    fn bare_window(&mut self, scene: &mut Scene, index: &mut usize, calls: usize) -> Result<(), CliError> {
        scene.runs.repeat(&self.graph, 1);
        let mut window = Vec::new();
        while window.len() < calls {
            let runs = answered(scene, *index)?;
            window.extend(runs.iter().filter(|run| run.is_repeated).map(|run| run.time.as_secs_f64() * 1e6));
            *index += 1;
        }
        self.bare.window(window);
        Ok(())
    }

    /// Median of the peer's steps, µs.
    fn peer_us(&self) -> Option<f64> {
        self.peer.as_ref().map(|side| side.calls.quantile(0.5))
    }

    fn row(&self, best_peer_us: Option<f64>) -> Row {
        let mut row = Row::new();
        row.insert("what".to_owned(), if *self.graph == *IN_PLACE { "in place" } else { "portable" }.into());
        row.extend(self.about.clone());
        self.step.calls.put(&mut row, "step", "us");
        self.bare.calls.put(&mut row, "bare", "us");
        self.host.put(&mut row, "host", "us");
        put_ratio(&mut row, "step_over_bare", &Ratio::new(&self.step.medians, &self.bare.medians));
        row.insert("step_over_bare_aim".to_owned(), json!(AIM));
        let step_us = self.step.calls.quantile(0.5);
        if let (Some(peer), Some(best)) = (&self.peer, best_peer_us) {
            peer.calls.put(&mut row, "peer", "us");
            put_ratio(&mut row, "rate_over_peer", &Ratio::new(&peer.medians, &self.step.medians));
            row.insert("rate_over_best_peer".to_owned(), json!(rounded(best / step_us)));
            row.insert("rate_over_best_peer_aim".to_owned(), json!(RATE_AIM));
        }
        if let Some(bytes) = self.weights {
            row.insert("weights_mb_per_token".to_owned(), json!(rounded(bytes / 1e6)));
            row.insert("weights_gb_s".to_owned(), json!(rounded(bytes / step_us / 1e3)));
            row.insert("read_gb_s".to_owned(), json!(rounded(quantile(&self.read, 0.5))));
        }
        row
    }
}

/// A ratio and its interval.
fn put_ratio(row: &mut Row, name: &str, ratio: &Ratio) {
    row.insert(name.to_owned(), json!(rounded(ratio.median)));
    row.insert(format!("{name}_ci95"), json!([rounded(ratio.interval.0), rounded(ratio.interval.1)]));
}

/// Engine runs of one inference, which must be answered.
fn answered(scene: &mut Scene, index: usize) -> Result<Vec<EngineRun>, CliError> {
    scene.runs.take();
    if scene.infer(index).is_answered {
        return Ok(scene.runs.take());
    }
    Err(CliError::Failed(format!("{}: inference {index} was refused", scene.bundle.source())))
}

/// The graph that an inference runs most often, and more than once.
fn looped_graph(scene: &mut Scene) -> Result<Arc<str>, CliError> {
    let mut runs = Vec::new();
    for index in 0..WARM_UP {
        runs = answered(scene, index)?;
    }
    let times = |graph: &Arc<str>| runs.iter().filter(|run| run.graph == *graph).count();
    let most = runs.iter().map(|run| &run.graph).max_by_key(|graph| times(graph));
    most.filter(|graph| times(graph) > 1).cloned().ok_or_else(|| {
        let name = &scene.bundle.spec().name;
        CliError::Input(format!("bench decode: {name} runs every graph once an inference: it has no steps to time"))
    })
}

/// Bytes of the decoder's layers and its head as f32, which every token reads once; `None` for a bundle that keeps them
/// elsewhere or in other numbers.
fn weights_of_a_token(scene: &Scene) -> Option<f64> {
    if scene.bundle.spec().precision != Precision::F32 {
        return None;
    }
    let file = scene.bundle.file("weights.safetensors").ok()?;
    let (length, rest) = file.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Value = serde_json::from_slice(header).ok()?;
    let tensors = header.as_object()?.iter().filter(|(name, _)| name.starts_with("layers.") || *name == "head");
    let elements = tensors.filter_map(|(_, tensor)| {
        let shape = tensor["shape"].as_array()?;
        shape.iter().map(|side| side.as_f64()).product::<Option<f64>>()
    });
    Some(4.0 * elements.sum::<f64>()).filter(|bytes| *bytes > 0.0)
}
