"""Bins are OpenVLA's: ids and centres by hand, and against a literal copy of its two formulas."""

import numpy as np
import pytest

from endplate_export import bins
from endplate_export.bins import BinError


@pytest.mark.parametrize("value, token", [
    (-1.0, 255), (-1.0 + 2 / 255, 254), (np.nextafter(-1.0 + 2 / 255, -2), 255), (-7.0, 255),
    (1.0, 0), (np.nextafter(1.0, 0), 1), (3.0, 0), (0.0, 128), (1.1 / 255, 127), (-0.9 / 255, 128), (-1.1 / 255, 129), (0.5, 64), (-0.5, 192),
])
def test_ids_by_hand(value, token):
    assert bins.encode(np.array([value]))[0] == token


@pytest.mark.parametrize("token, centre", [(255, -254 / 255), (254, -252 / 255), (128, 0.0), (127, 2 / 255), (1, 254 / 255), (0, 254 / 255)])
def test_centres_by_hand(token, centre):
    assert bins.decode(np.array([token]))[0] == pytest.approx(centre, abs=1e-12)


def test_the_whole_range_equals_the_upstream_formulas():
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2.0
    y = np.concatenate([np.linspace(-1.2, 1.2, 5001), edges])
    vocabulary = 32000  # upstream: token = vocabulary - digitize, back: clip(vocabulary - token - 1, 0, 254)
    upstream = vocabulary - np.digitize(np.clip(y, -1, 1), edges)
    ids = bins.encode(y)
    assert np.array_equal(ids, upstream - (vocabulary - 256)) and ids.min() == 0 and ids.max() == 255
    assert np.array_equal(bins.decode(ids), centres[np.clip(vocabulary - upstream - 1, 0, 254)])
    inside = np.abs(y) <= 1
    assert np.abs(bins.decode(ids) - y)[inside].max() <= 1 / 255 + 1e-12


def test_tokens_are_time_major():
    chunk = np.zeros((8, 6))
    chunk[2, 5] = 1.0
    ids = bins.encode(chunk).reshape(-1)
    assert np.flatnonzero(ids != 128).tolist() == [2 * 6 + 5]
    assert np.argwhere(bins.decode_chunk(ids, 8, 6) > 0.5).tolist() == [[2, 5]]


@pytest.mark.parametrize("ids, message", [(np.zeros(47, int), "47 tokens"), (np.zeros(49, int), "49 tokens"), (np.full(48, 256), "outside"), (np.full(48, -1), "outside")])
def test_what_is_not_one_chunk_is_refused(ids, message):
    with pytest.raises(BinError, match=message):
        bins.decode_chunk(ids, 8, 6)


def test_statistics_are_quantiles_per_dimension():
    values = np.stack([np.linspace(0, 1, 10001), np.full(10001, 2.0)], -1).reshape(1, -1, 2)
    q = bins.statistics(values, 0.001, 0.999)
    assert np.allclose(q["q01"], [0.001, 2.0]) and np.allclose(q["q99"], [0.999, 2.001])
