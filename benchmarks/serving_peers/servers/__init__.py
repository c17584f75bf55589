"""What runs in the environments of the peers: nothing here imports towncast."""
