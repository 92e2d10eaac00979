"""The live page: what a person sees of a running session in a browser, served by a process of its own."""
