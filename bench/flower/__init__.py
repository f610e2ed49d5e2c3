"""Flower's gRPC server and clients, doing the same work, in an environment of their own."""
