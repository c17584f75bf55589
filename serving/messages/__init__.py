"""Messages that travel between the plant, the historian and the twins: Protobuf, with the generated code beside it."""
