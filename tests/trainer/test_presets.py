import pytest
from pydantic import ValidationError

from contract.settings import load_settings
from trainer.presets import PRESETS
from trainer.settings import FitSettings


def test_balanced_is_the_default():
    assert FitSettings().preset == "balanced"
    assert FitSettings() == FitSettings(preset="balanced")
    assert FitSettings().time_limit_seconds == 240


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_is_not_given(preset):
    settings = FitSettings(preset=preset)
    for name, value in PRESETS[preset]["model"].items():
        assert getattr(settings.model, name) == value
    assert settings.minutes == PRESETS[preset]["minutes"]


def test_what_is_given_wins_over_the_preset(tmp_path):
    file = tmp_path / "fit.yaml"
    file.write_text("preset: still\nmodel: {height: 128}\nminutes: 3\n")
    settings = load_settings(FitSettings, file=file, flags={"minutes": 4.0})
    assert (settings.model.motion, settings.model.height, settings.model.width) == ("none", 128, 256)
    assert settings.minutes == 4


def test_epochs_take_the_place_of_the_presets_minutes():
    settings = FitSettings(preset="fast", epochs=3)
    assert settings.minutes is None
    assert settings.time_limit_seconds is None


def test_settings_survive_being_written_down():
    for settings in (FitSettings(preset="still"), FitSettings(epochs=2, model={"motion": "none"})):
        assert FitSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValidationError, match="preset"):
        FitSettings(preset="quick")


def test_a_crop_that_does_not_fit_the_layers_is_refused():
    with pytest.raises(ValidationError, match="multiple of 16"):
        FitSettings(crop_px=40, model={"widths": (8, 8, 8, 8)})
