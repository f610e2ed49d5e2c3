"""What a scenario is made of: classes of devices, links, availability, traces, faults. All functions of a seed."""
