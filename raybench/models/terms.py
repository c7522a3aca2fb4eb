"""Where the first weights of a model came from and on which terms, in a sentence for a model card."""

from __future__ import annotations

from pathlib import Path

from raybench.config.trial import ModelConfig
from raybench.models import registry, timm_models

NOTHING_STATED = "no licence is stated with them"


def terms(config: ModelConfig) -> str:
    """What the weights of a configuration began from, as far as it, timm and raybench know."""
    if config.weights == "none":
        return f"{config.name} was trained from scratch: no weights of others are in it."
    if config.of_sweep is not None:
        sweep, trial = config.of_sweep
        return f"{config.name} began from the weights of trial {trial} of sweep {sweep}, and has that trial's terms."
    if config.weights != "pretrained":
        return f"{config.name} began from the file {Path(config.weights).name}; whoever made it knows its terms."
    if config.name in registry.published():
        return f"{config.name} began from {registry.published()[config.name].source}; {NOTHING_STATED} here."
    cfg = timm_models.pretrained_cfg(config.name)
    origin = cfg.origin_url or (f"huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url)
    licence = f"licence {cfg.license}, as timm has it" if cfg.license else NOTHING_STATED
    return f"{config.name} began from the weights that timm names so ({origin}): {licence}."
