"""The prompt: text tokenizer, id layout and state binning. Training and export both build them here, and only here.

Prompt (pi0-FAST form): ``<bos>`` + tokens of ``Task: {instruction}, State: {six ints};\\nAction: `` with the
instruction stripped, lower-cased and ``_`` replaced by a blank. Ids: text ids ``0..Nt``, then FAST id ``a`` is
``action_offset + a``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split

PAD, UNK, BOS, END = 0, 1, 2, 3
FIXED = ["<pad>", "<unk>", "<bos>", "|", "Task", "State", "Action", ":", ",", ";"]
STATE_BINS = 256
FIRST_NUMBER, LAST_NUMBER = -1, STATE_BINS - 1


def _pre_tokenizer() -> Sequence:
    return Sequence([Split(Regex("\\s+"), "removed"), Split(Regex("[:,;]"), "isolated")])


def clean_instruction(instruction: str) -> str:
    """Instruction as the prompt holds it: stripped, lower-cased, ``_`` to blank."""
    return instruction.strip().lower().replace("_", " ")


def sentence(phrase: str, colour: str) -> str:
    """One instruction from a template with ``{colour}``."""
    return phrase.replace("{colour}", colour)


def build_tokenizer(phrases: list[str], colours: list[str]) -> Tokenizer:
    """WordLevel tokenizer over every word of the phrasings, the prompt's fixed marks and the numbers -1..255.

    The vocabulary depends on the *set* of words only: special marks, words in alphabetical order, numbers.
    """
    split = _pre_tokenizer()
    words: set[str] = set()
    for phrase in phrases:
        for colour in colours:
            text = clean_instruction(sentence(phrase, colour))
            words.update(word for word, _ in split.pre_tokenize_str(text))
    numbers = [str(n) for n in range(FIRST_NUMBER, LAST_NUMBER + 1)]
    ordered = FIXED + sorted(words - set(FIXED) - set(numbers)) + numbers
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(ordered)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    return tokenizer


def state_bins(y: np.ndarray) -> np.ndarray:
    """``count(edges <= y) - 1`` with edges ``-1 + k/128``, k = 0..255: integers -1..255, same shape as ``y`` (f64)."""
    edges = -1.0 + np.arange(STATE_BINS) / 128.0
    return np.searchsorted(edges, np.asarray(y, np.float64), side="right").astype(np.int64) - 1


def prompt(instruction: str, bins) -> str:
    """The text that the tokenizer sees (``<bos>`` is put in front of its ids)."""
    return f"Task: {clean_instruction(instruction)}, State: {' '.join(str(int(b)) for b in bins)};\nAction: "


def prompt_ids(tokenizer: Tokenizer, instruction: str, bins) -> np.ndarray:
    """Ids of the whole text prompt, i64 [T], ``<bos>`` first."""
    return np.asarray([BOS, *tokenizer.encode(prompt(instruction, bins)).ids], np.int64)


@dataclass(frozen=True)
class Layout:
    """Where ids live. ``numbers`` is the id of "-1"; bin ``b`` has id ``numbers + 1 + b``."""

    text_vocabulary: int
    action_vocabulary: int
    numbers: int

    @property
    def action_offset(self) -> int:
        return self.text_vocabulary

    @property
    def vocabulary(self) -> int:
        return self.text_vocabulary + self.action_vocabulary


def build_layout(tokenizer: Tokenizer, action_vocabulary: int) -> Layout:
    """Id layout for a text tokenizer made by ``build_tokenizer`` and a FAST vocabulary of the given size."""
    first = tokenizer.token_to_id(str(FIRST_NUMBER))
    last = tokenizer.token_to_id(str(LAST_NUMBER))
    if first is None or last != first + LAST_NUMBER - FIRST_NUMBER:
        raise ValueError("the tokenizer's numbers -1..255 are not contiguous: it was not made by build_tokenizer")
    return Layout(tokenizer.get_vocab_size(), action_vocabulary, first)
