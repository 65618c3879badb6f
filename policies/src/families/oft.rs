//! OpenVLA-OFT: one pass of OpenVLA's network, every row seeing every other, from which a head reads all rows at once
//! (Kim et al., arXiv 2502.19645, §IV).
//!
//! `regress.onnx`: `image_i` `[1, 3, h, w]`, `tokens` i64 `[1, T]`, `token_mask` i64 `[1, T]` (1 where there is a token),
//! perhaps `state` `[1, S]` → `actions` `[1, H, D]`, normalised. The prompt stands at the end of `tokens`, so that the
//! empty action tokens follow at once; positions and masks follow from `token_mask` inside the graph.

use endplate_tokenizers::openvla_prompt;

use super::Graphs;
use super::act::REGRESS;
use super::frame::{Frame, Network, widen};
use super::observation::Inputs;
use super::text::Prompt;
use crate::bundle::{Bundle, OftSpec, PolicySpec};
use crate::engine::{Contract, Engine, EngineError, InputSlot, OutputSlot, Session};
use crate::load::LoadError;
use crate::observation::Observation;
use crate::policy::PolicyError;

/// The network.
pub(crate) struct Oft {
    session: Box<dyn Session>,
    inputs: Inputs,
    tokens: InputSlot,
    mask: InputSlot,
    actions: OutputSlot,
    prompt: Prompt,
    text_ids: Vec<u32>,
}

/// Loads the tokenizer and the graph.
///
/// # Errors
/// [`LoadError`] naming the file.
pub(super) fn load(
    bundle: &Bundle,
    rules: OftSpec,
    engine: &dyn Engine,
    graphs: &Graphs<'_>,
) -> Result<Frame<Oft>, LoadError> {
    let spec = bundle.spec().clone();
    let room = rules.max_text_tokens;
    let prompt = Prompt::load(bundle, rules.vocabulary, Some(rules.bos), rules.suffix.as_slice(), room)?;
    let mut contract = Contract::new();
    let inputs = Inputs::declare_images(&mut contract, &spec);
    let tokens = contract.input_i64("tokens", &[1, room]);
    let mask = contract.input_i64("token_mask", &[1, room]);
    let inputs = if rules.reads_state { inputs.with_state(&mut contract, &spec) } else { inputs };
    let actions = contract.output_f32("actions", &[1, spec.chunk.horizon, spec.actions.dims().len()]);
    let session = engine.load(graphs.source(REGRESS)?, &contract)?;
    Ok(Frame::new(spec, Oft { session, inputs, tokens, mask, actions, prompt, text_ids: Vec::with_capacity(room) }))
}

impl Network for Oft {
    fn observe(&mut self, spec: &PolicySpec, observation: &Observation<'_>) -> Result<(), PolicyError> {
        self.text_ids = self.prompt.ids(&openvla_prompt(observation.instruction))?;
        self.inputs.fill(&mut *self.session, spec, observation)?;
        for (slot, ones) in [(self.tokens, false), (self.mask, true)] {
            let tensor = self.session.input_i64_mut(slot)?;
            let (padding, said) = tensor.split_at_mut(tensor.len() - self.text_ids.len());
            padding.fill(0);
            for (value, id) in said.iter_mut().zip(&self.text_ids) {
                *value = if ones { 1 } else { i64::from(*id) };
            }
        }
        Ok(())
    }

    fn images(&mut self) -> (&mut Inputs, &mut dyn Session) {
        (&mut self.inputs, &mut *self.session)
    }

    fn prefill(&mut self) -> Result<(), PolicyError> {
        Ok(self.session.run()?)
    }

    fn rows(&self, _spec: &PolicySpec, into: &mut [f64]) -> Result<(), PolicyError> {
        widen(self.session.output_f32(self.actions)?, into);
        Ok(())
    }

    fn check_instruction(&self, _spec: &PolicySpec, instruction: &str) -> Result<(), PolicyError> {
        self.prompt.ids(&openvla_prompt(instruction)).map(drop)
    }

    fn text_ids(&self) -> &[u32] {
        &self.text_ids
    }

    fn head(&self) -> Result<&[f32], EngineError> {
        self.session.output_f32(self.actions)
    }
}
