"""What a round costs: ours beside Flower's gRPC server and beside the bare pipe, doing the same work."""
