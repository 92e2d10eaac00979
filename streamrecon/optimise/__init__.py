"""Optimisers of a map behind one interface, each from its paper. Numerics only: no engine, no files, no settings."""
