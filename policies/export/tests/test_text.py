"""Prompt and id layout: what the runtime's tokenizer must reproduce."""

import numpy as np

from endplate_export.text import BOS, FIXED, UNK, build_layout, build_tokenizer, prompt, prompt_ids, state_bins

PHRASES = ["pick up the {colour} cube", "grab the {colour} block"]
COLOURS = ["red", "green", "blue"]


def test_fixed_ids_come_first_and_numbers_last():
    tokenizer = build_tokenizer(PHRASES, COLOURS)
    assert [tokenizer.token_to_id(word) for word in FIXED] == list(range(len(FIXED)))
    layout = build_layout(tokenizer, 1024)
    assert tokenizer.token_to_id("-1") == layout.numbers
    assert tokenizer.token_to_id("255") == layout.action_offset - 1
    assert layout.vocabulary == layout.action_offset + 1024


def test_the_vocabulary_does_not_depend_on_the_order_of_phrases():
    assert build_tokenizer(PHRASES, COLOURS).to_str() == build_tokenizer(PHRASES[::-1], COLOURS[::-1]).to_str()


def test_the_prompt_is_pi0_fast_form():
    bins = [-1, 0, 7, 128, 255, 12]
    assert prompt("  Pick_up the RED cube ", bins) == "Task: pick up the red cube, State: -1 0 7 128 255 12;\nAction: "
    tokenizer = build_tokenizer(PHRASES, COLOURS)
    ids = prompt_ids(tokenizer, "  Pick_up the RED cube ", bins)
    words = "Task : pick up the red cube , State : -1 0 7 128 255 12 ; Action :".split()
    assert ids[0] == BOS and [tokenizer.id_to_token(i) for i in ids[1:]] == words


def test_an_unknown_word_is_unk_and_nothing_else_moves():
    tokenizer = build_tokenizer(PHRASES, COLOURS)
    known, unknown = (prompt_ids(tokenizer, f"pick up the red {w}", [0] * 6) for w in ("cube", "wombat"))
    assert (known != unknown).sum() == 1 and unknown[known != unknown][0] == UNK


def test_state_bins_count_edges():
    values = np.array([-1.5, -1.0, np.nextafter(-1.0, -2), -1e-20, 0.0, 0.4999, 0.5, 127 / 128, 3.0])
    edges = -1 + np.arange(256) / 128
    assert state_bins(values).tolist() == [int((edges <= v).sum()) - 1 for v in values]
    assert state_bins(values).tolist()[:2] == [-1, 0] and state_bins(values)[-1] == 255
