"""The paper's figures: what they measure, and how they are drawn.

`figures/` has a module per figure, which `tools/analyze.py` calls: it runs models over a data set
and hands back `output.Drawing`s. It takes the numbers from a module of functions of tensors here,
and the picture from a module of the same name in `plots/`, which draws numbers and computes none.

What the figures share: `models` (which models, and their weights), `examples` (pictures of a data
set with their objects), `passes` (the parts of a forward pass), `output` (files).
"""
