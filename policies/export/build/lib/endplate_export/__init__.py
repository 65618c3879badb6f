"""Train the Endplate demonstration policy and write policy bundles.

Shape legend used in every module: ``B`` batch, ``H`` horizon (rows of a chunk), ``D`` action dimensions,
``S`` rows of the prefill graph, ``T`` tokens, ``V`` vocabulary, ``Nv`` visual tokens, ``d`` model width,
``hd`` head dimension, ``h w c`` image. Angles are rad, lengths m, times s.
"""

__version__ = "0.1.0"
