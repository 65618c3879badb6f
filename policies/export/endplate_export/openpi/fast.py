"""π0-FAST as openpi speaks it: one ``<bos>``, a position left out behind the prompt, ``|`` or ``<eos>`` at the end.

The reference runs the whole sequence again for every token, without a cache: own reference."""

from __future__ import annotations

import numpy as np
import torch

from ..fast import FastError
from ..lerobot.bundle import Incomplete, Sample, Source
from ..lerobot.pi0_fast import Pi0Fast

GAP = 1


class OpenPiFast(Pi0Fast):
    """See ``bundle.Family``."""

    form = "openpi"

    def __init__(self, source: Source):
        super().__init__(source)
        self.ends = [self.end, source.policy._paligemma_tokenizer.eos_token_id]
        self.table.tables["prompt"]["suffix"] = []
        self.table.tables["answer"] |= {"position_gap": GAP, "end": self.ends}

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        vlm, dims = self.model.paligemma_with_expert, len(self.source.embodiment.action)
        batch = self.source.batch(sample)
        images = [batch[key][None] * 2 - 1 for key in self.source.checkpoint.cameras]
        visual = torch.cat([vlm.embed_image(image) for image in images], 1)
        bins = np.digitize(self.source.normalised_state(sample), np.linspace(-1, 1, 257)[:-1]) - 1
        text = sample.instruction.lower().strip().replace("_", " ")
        ids = self.text.tokenizer(f"Task: {text}, State: {' '.join(map(str, bins))};\n")["input_ids"]
        prefix = torch.cat([visual, vlm.embed_language_tokens(torch.tensor([ids]))], 1)
        n = prefix.shape[1]
        tokens, first = [], None
        while len(tokens) < self.most and (not tokens or tokens[-1] not in self.ends):
            x, count = prefix, n + len(tokens)
            if tokens:
                x = torch.cat([prefix, vlm.embed_language_tokens(torch.tensor([tokens]))], 1)
            positions = torch.cat([torch.arange(n), n + GAP + torch.arange(len(tokens))])[None]
            mask = torch.zeros(count, count)
            mask[:n, n:] = -1e9
            mask[n:, n:] = torch.triu(torch.full((count - n, count - n), -1e9), 1)
            (hidden, _), _ = vlm.forward(attention_mask=mask[None, None], position_ids=positions, past_key_values=None, inputs_embeds=[x, None], use_cache=False)
            logits = vlm.paligemma.lm_head(hidden[0, -1])
            first = logits if first is None else first
            tokens.append(int(logits.argmax()))
        try:
            rows = self.decoded(tokens)
        except FastError as error:
            raise Incomplete(f"the model's answer is no whole action ({error})") from None
        sample.arrays |= {"text_ids": np.array(ids, np.int64), "tokens": np.array(tokens, np.int64), "visual": visual[0].numpy(), "prefill_logits": first.numpy()}
        assert rows.shape == (self.rows, dims)
        sample.actions = self.source.answer(torch.from_numpy(rows).float()[None])
