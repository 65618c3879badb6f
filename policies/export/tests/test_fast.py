"""FAST decoding: exact on hand-made ids, and a refusal for everything that is not one chunk."""

import json

import numpy as np
import pytest

from endplate_export.fast import Fast, FastError, absolute_actions, dct_matrix, normalise, unnormalise


def byte_fast() -> Fast:
    """Every byte is one id; zero is the character 'd' (100)."""
    return Fast(tuple(bytes([b]) for b in range(256)), 10.0, -100)


def ids_of(coefficients) -> list[int]:
    return list("".join(chr(int(c) + 100) for c in np.ravel(coefficients)).encode("utf-8"))


def test_a_chunk_survives_encoding_by_hand_and_decoding():
    rng = np.random.default_rng(0)
    chunk = np.cumsum(rng.normal(0, 0.1, (16, 6)), 0)
    coefficients = np.rint(10 * dct_matrix(16) @ chunk).astype(int)
    coefficients[0, 0] = 90  # two bytes in UTF-8
    decoded = byte_fast().decode(ids_of(coefficients), 16, 6)
    expected = dct_matrix(16).T @ (coefficients / 10)
    assert np.abs(decoded - expected).max() < 1e-12


def test_the_dct_is_orthonormal():
    assert np.abs(dct_matrix(16) @ dct_matrix(16).T - np.eye(16)).max() < 1e-12


@pytest.mark.parametrize("ids, message", [
    (ids_of(np.zeros(95)), "95 coefficients"), (ids_of(np.zeros(97)), "97 coefficients"),
    ([300], "outside"), ([-1], "outside"), ([0xC3], "UTF-8"), ([], "0 coefficients"),
])
def test_what_is_not_one_chunk_is_refused(ids, message):
    with pytest.raises(FastError, match=message):
        byte_fast().decode(ids, 16, 6)


def test_a_cut_character_has_no_length_yet():
    fast = byte_fast()
    ids = ids_of([0, 90])
    assert [fast.length(ids[:n]) for n in range(1, 4)] == [1, None, 2]


def test_the_byte_table_is_read_from_a_tokenizer_file(tmp_path):
    vocab = {"Ġ": 0, "a": 1, "Å¢": 2, "Ċ": 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"scale": 10, "min_token": -354}))
    fast = Fast.load(tmp_path)
    assert fast.pieces == (b" ", b"a", b"\xc5\xa2", b"\n")
    assert fast.coefficients([2]) == [0]


def test_normalisation_inverts_and_the_gripper_stays_absolute():
    q01, q99 = np.array([-1.0, 0.2]), np.array([1.0, 0.9])
    x = np.array([[0.3, 1.4]])
    y = normalise(x, q01, q99)
    assert np.abs(unnormalise(y, q01, q99) - x).max() < 1e-12
    assert np.allclose(absolute_actions(y, np.array([0.5, 0.5]), q01, q99, np.array([True, False])), [[0.8, 1.4]])
