"""The OpenAPI document is a promise: it changes on purpose only."""

import json
import sys
from pathlib import Path

from serving.app import create_app
from serving.settings import ServingSettings

GOLDEN = Path(__file__).with_name("openapi.json")


def written() -> str:
    return json.dumps(create_app(ServingSettings()).openapi(), indent=1, sort_keys=True) + "\n"


def test_the_openapi_document_is_unchanged() -> None:
    assert GOLDEN.read_text(encoding="utf-8") == written(), (
        "The OpenAPI document changed. If that is meant, renew it with `python tests/golden/test_openapi.py`, look at "
        "the difference, and commit it."
    )


if __name__ == "__main__":
    GOLDEN.write_text(written(), encoding="utf-8")
    sys.stdout.write(f"{GOLDEN} is renewed\n")
