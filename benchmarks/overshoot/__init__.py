"""How far three guards let the same load go over a budget, and how much of it they let it use: `python -m benchmarks.overshoot`."""
