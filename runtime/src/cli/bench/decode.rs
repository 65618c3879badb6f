//! `endplate bench decode`: what a step of a policy's inner loop, a token or a denoising step, costs over the engine
//! call inside it.
//!
//! A step is the time from one return of the engine to its next return: reading logits or velocity, choosing the token,
//! the tokenizer, the next inputs, mask and cache, and the call itself. Against it stands the bare call: the same bound
//! session in the same state, called again with unchanged inputs. Windows of both take turns.

use super::scene::Scene;
use super::{BenchArguments, Ratio, Row, Samples, quantile, rounded};
use crate::cli::error::CliError;
use endplate_policies::EngineRun;
use serde_json::json;
use std::sync::Arc;

/// Repetitions of every engine call in a window of bare calls.
const REPEATED: usize = 3;
/// Untimed inferences before the first window.
const WARM_UP: usize = 5;
/// Largest ratio aimed at.
const AIM: f64 = 1.05;

/// Every row of the table.
pub fn rows(arguments: &BenchArguments) -> Result<Vec<Row>, CliError> {
    let mut scene = Scene::open(arguments)?;
    let looped = looped_graph(&mut scene)?;
    let (mut steps, mut bare, mut host) = (Samples::default(), Samples::default(), Samples::default());
    let (mut step_medians, mut bare_medians) = (Vec::new(), Vec::new());
    let mut index = WARM_UP;
    for _ in 0..arguments.windows {
        let (mut window_steps, mut window_bare) = (Vec::new(), Vec::new());
        scene.runs.repeat(0);
        while window_steps.len() < arguments.calls {
            for pair in answered(&mut scene, index)?.windows(2).filter(|pair| pair.iter().all(|r| r.graph == looped)) {
                let step = (pair[1].end() - pair[0].end()).as_secs_f64();
                window_steps.push(step * 1e6);
                host.extend([(step - pair[1].time.as_secs_f64()) * 1e6]);
            }
            index += 1;
        }
        scene.runs.repeat(REPEATED);
        while window_bare.len() < arguments.calls {
            let runs = answered(&mut scene, index)?;
            let repeated = runs.iter().filter(|run| run.is_repeated && run.graph == looped);
            window_bare.extend(repeated.map(|run| run.time.as_secs_f64() * 1e6));
            index += 1;
        }
        step_medians.push(quantile(&window_steps, 0.5));
        bare_medians.push(quantile(&window_bare, 0.5));
        steps.extend(window_steps);
        bare.extend(window_bare);
    }
    let engine = &scene.loaded.engine;
    let mut row = Row::new();
    row.insert("what".to_owned(), "step over bare call".into());
    row.insert("bundle".to_owned(), scene.bundle.spec().name.clone().into());
    row.insert("engine".to_owned(), format!("{} {}", engine.name, engine.version).into());
    row.insert("graph".to_owned(), (*looped).into());
    row.insert("windows".to_owned(), arguments.windows.into());
    row.insert("calls_per_window".to_owned(), arguments.calls.into());
    steps.put(&mut row, "step", "us");
    bare.put(&mut row, "bare", "us");
    host.put(&mut row, "host", "us");
    put_ratio(&mut row, "step_over_bare", &Ratio::new(&step_medians, &bare_medians));
    row.insert("step_over_bare_aim".to_owned(), json!(AIM));
    Ok(vec![row])
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

/// The graph that an inference runs most often, and more than once in a row.
fn looped_graph(scene: &mut Scene) -> Result<Arc<str>, CliError> {
    for index in 0..WARM_UP - 1 {
        answered(scene, index)?;
    }
    let runs = answered(scene, WARM_UP - 1)?;
    let times = |graph: &Arc<str>| runs.iter().filter(|run| run.graph == *graph).count();
    let most = runs.iter().map(|run| &run.graph).max_by_key(|graph| times(graph));
    most.filter(|graph| times(graph) > 1).cloned().ok_or_else(|| {
        let name = &scene.bundle.spec().name;
        CliError::Input(format!("bench decode: {name} runs every graph once an inference: it has no steps to time"))
    })
}
