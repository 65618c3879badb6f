"""A checkpoint of openpi in its PyTorch form becomes a bundle: ``endplate-export openpi PATH --out bundle/``.

LeRobot's π policies are ports of openpi's and keep the names of its tensors, so the checkpoint is rewritten as one of LeRobot's
in a temporary folder and exported like that; LeRobot is what it is compared against. openpi's own conventions stay: its
statistics add 1e-6 to every width, its instruction is cleaned, and π0-FAST leaves a position out and says no second ``<bos>``
(own reference: openpi has no PyTorch form of it that could be run).
"""
