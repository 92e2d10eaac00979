"""The worker process: takes batches, folds them, publishes, and acknowledges what is durable."""
