"""The broker floor: reaching one, and running one. Knows nothing of learning."""
