"""The engine: accumulators, annealing, FSC, the map, and what composes them."""
