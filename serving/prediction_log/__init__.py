"""The prediction log: every forecast and every answer, written before the answer leaves."""
