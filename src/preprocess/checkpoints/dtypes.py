"""The dtypes that weights can be loaded in, by the names that options use."""

from typing import Literal, get_args

import torch

from datamodules.errors import ConfigError

Dtype = Literal["auto", "bf16", "fp16", "fp32"]  # auto: the dtype that the checkpoint's config names

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def require_dtype(dtype: str, option: str) -> None:
    """Check that `dtype` is one of `Dtype`.

    Raises:
        ConfigError: it is not; the message names `option`.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"{option} {dtype}: use {', '.join(get_args(Dtype))}")
