"""One engine on several processes, one a device: starting them, what they exchange, and noticing when one is gone."""
