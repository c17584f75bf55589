"""LitServe: one worker, as its documentation begins."""

import sys

import litserve
from graph import INPUTS, open_session, run


class Forecaster(litserve.LitAPI):
    """Holds the session."""

    def setup(self, device):
        """Load the graph."""
        self.session = open_session()

    def decode_request(self, request):
        """The window of a body."""
        return [request[name] for name in INPUTS]

    def predict(self, window):
        """Run the graph."""
        return run(self.session, *window)

    def encode_response(self, quantiles):
        """The body of a forecast."""
        return {"quantiles": quantiles.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Forecaster(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
