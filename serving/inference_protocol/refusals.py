"""Refusals as replies of the Open Inference Protocol."""

from __future__ import annotations

from http import HTTPStatus

from serving.errors import Refusal
from serving.inference_protocol.error_form import protocol_error
from serving.inference_protocol.messages import InferenceReply, write_json


def protocol_refusal(refusal: Refusal) -> InferenceReply:
    """A refusal in the form that the protocol's clients read."""
    headers = {"Retry-After": "5"} if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return write_json(protocol_error(refusal.content.error), status=refusal.status, headers=headers)
