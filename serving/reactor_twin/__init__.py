"""The reactor's twin: a living model that is driven by the plant's messages and says what should be."""
