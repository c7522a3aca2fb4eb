"""Which names there are, and which are near to one that is not known."""

from __future__ import annotations

from raybench import models
from raybench.models import registry


def test_the_folder_holds_the_models_of_the_sweeps() -> None:
    ours = {"basic_vit", "resnet8", "resnet20", "resnet56", "vit_micro_patch2_8", "vit_tiny_patch4_32"}
    ours |= {"ci2p_vit", "ci2p_vit_ds", "cnn_vit", "vit_b16_gap", "bmshj2018_factorized", "multi30k_transformer"}
    assert ours <= set(models.names())


def test_every_file_that_declares_published_weights_declares_the_model() -> None:
    assert registry.published().keys() <= registry.own().keys()
    assert registry.translations().keys() | registry.unit_input() <= registry.own().keys()


def test_names_ours_first_then_timm() -> None:
    assert models.exists("resnet20")
    assert models.exists("resnet18")
    assert models.exists("regnety_160.deit_in1k")
    assert not models.exists("regnety_160.no_such_tag")
    assert not models.exists("resnet21")


def test_nearest_names() -> None:
    assert "resnet20" in models.nearest("resnet200x")
    assert models.nearest("vit_tiny_patch4_33")[0] == "vit_tiny_patch4_32"
    assert models.nearest("regnety_160.diet_in1k")[0] == "regnety_160.deit_in1k"
    assert models.nearest("%%%%") == []
