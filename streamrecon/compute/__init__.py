"""Where the arithmetic runs: one engine, a backend a kind of device."""
