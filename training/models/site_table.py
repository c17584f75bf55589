"""Which of the fitted sites a window is of, as a graph part."""

from __future__ import annotations

import torch
from torch import Tensor


def site_place(static: Tensor, codes: Tensor) -> Tensor:
    """Place of each window's site among the fitted ones, their number for any other.

    Args:
        static: Static values of windows, the site's code first, shape (B, S).
        codes: Codes of the fitted sites, see `features.vocabulary.site_code`, shape (sites,).

    Returns:
        Shape (B,).
    """
    place = torch.arange(len(codes), device=static.device)
    return torch.where(static[:, :1] == codes[None], place[None], len(codes)).amin(dim=1)
