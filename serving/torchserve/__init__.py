"""All that knows TorchServe: its handler, its archive, its process and the runtime that asks it."""
