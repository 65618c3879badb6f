"""A saved OpenVLA or OpenVLA-OFT checkpoint becomes a bundle: ``endplate-export openvla PATH --out bundle/``.

| module | what it does |
|---|---|
| ``checkpoint`` | reads and checks config, safetensors, statistics, tokenizer, and the heads that OFT keeps beside them |
| ``network`` | the published arithmetic over those tensors: own reference, the language model from ``transformers`` |
| ``families`` | graphs, golden samples and comparison of the two |

The published code needs versions of transformers and timm that exclude everything else here, so it is not run: what is
compared against is this package's own reading of it.
"""
