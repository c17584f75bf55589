"""Ground floor: the vocabulary, and the one path from a sensor's reading to a model's input."""
