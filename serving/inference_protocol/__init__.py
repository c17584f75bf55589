"""Open Inference Protocol v2 over HTTP: windows in the body, for the clients of KServe and Triton."""
