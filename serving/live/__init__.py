"""Live updates: the WebSocket, and the dashboard that it feeds."""
