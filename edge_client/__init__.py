"""The device: takes part when it may, and keeps its work until the aggregator has said what became of it."""
