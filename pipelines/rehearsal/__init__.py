"""The rehearsal: a half year of readings replayed through the running API, with harm done to it on purpose."""
