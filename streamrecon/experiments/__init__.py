"""The experiments of the seed paper, made again: a plan of cells, each run once and kept, and a report of them."""
