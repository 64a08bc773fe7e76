"""The figures by name. A module of that name ("-" for "_") has

- `HELP`, a line on what it shows;
- `add_options(parser)`, which adds those that the figure takes;
- `run(args)`, which returns a list of `output.Drawing`. What is heavy is imported in there, so that
  `--help` answers at once.
"""

FIGURES: dict[str, str | None] = {
    "discriminability": "figure2",
    "score-maps": "figure3",
    "instability": "figure5",
    "head-distances": "figure6 figure8 figure9",
    "query-positions": "figure7",
    "positives": None,
}
"""What a figure is called, and its number in the paper, or its numbers."""
