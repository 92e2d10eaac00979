"""From a watched folder to numbered batches: watch, settle, collect, ledger, feed."""
