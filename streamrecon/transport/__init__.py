"""The wire: versioned messages (pure serialize/deserialize) and the sockets that carry them."""
