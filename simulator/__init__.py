"""Whole fleets, from the same parts that run on devices: in virtual time, or for real over bad links."""
