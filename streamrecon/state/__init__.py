"""Durable state: checkpoints that are whole or not there."""
