"""The parts of a fleet in containers: broker, aggregator, devices behind links of their own, and chaos among them."""
