import pytest
import torch
from pydantic import ValidationError

from contract.scoring import frames_to_images
from trainer.model import Autoencoder, Detector, ModelConfig, pooled_error, to_images

VARIANTS = [
    {"bottleneck": "frame", "latent": 7},
    {"bottleneck": "tile", "latent": 5, "tile": 2},
    {"bottleneck": "spatial", "latent": 3},
    {"bottleneck": "frame", "latent": 7, "clip_frames": 3},
    {"bottleneck": "spatial", "latent": 3, "clip_frames": 2, "channels": 3},
]
LATENTS = [(7,), (5, 2, 3), (3, 4, 6), (7,), (3, 4, 6)]


def config(**changes):
    return ModelConfig(**{"height": 64, "width": 96, "widths": (4, 8, 8, 8), **changes})


@pytest.mark.parametrize(("variant", "latent"), list(zip(VARIANTS, LATENTS, strict=True)))
def test_decoder_mirrors_encoder_in_every_variant(variant, latent):
    model = Autoencoder(config(**variant)).eval()
    images = torch.rand(2, model.config.clip_frames * model.config.channels, 64, 96)
    codes = model.encoder(images)
    assert codes.shape == (2, *latent)
    reconstruction = model.decoder(codes)
    assert reconstruction.shape == images.shape
    assert reconstruction.min() >= 0
    assert reconstruction.max() <= 1


def test_tile_bottleneck_is_one_fully_connected_layer_over_every_tile():
    model = Autoencoder(config(bottleneck="tile", latent=5, tile=2)).eval()
    images = torch.rand(1, 1, 64, 96)
    before = torch.nn.Sequential(*list(model.encoder)[:-1])(images)  # (1, 8, 4, 6)
    layer = model.encoder[-1]
    weights, bias = layer.weight.flatten(1), layer.bias
    codes = model.encoder(images)
    for row in range(2):
        for column in range(3):
            tile = before[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            assert torch.allclose(codes[0, :, row, column], weights @ tile + bias, atol=1e-5)


@pytest.mark.parametrize("changes", [{"height": 72}, {"widths": ()}, {"bottleneck": "tile", "tile": 3}, {"latent": 0}])
def test_shapes_that_do_not_divide_are_refused(changes):
    with pytest.raises(ValidationError):
        config(**changes)


def test_score_is_the_maximum_of_the_map_and_falls_on_the_disturbed_cell():
    detector = Detector(Autoencoder(config())).eval()
    frames = torch.full((2, 1, 64, 96, 1), 128, dtype=torch.uint8)
    with torch.inference_mode():
        errors = detector.cell_errors(frames)
        detector.cell_mean.copy_(errors[0])
        detector.cell_spread.fill_(0.01)
        frames[1, 0, 32:48, 64:80] = 255
        score, anomaly_map = detector(frames)
    assert torch.equal(score, anomaly_map.amax((1, 2)))
    assert score[0].item() == pytest.approx(0, abs=1e-4)
    row, column = divmod(int(anomaly_map[1].argmax()), anomaly_map.shape[2])
    assert 3 <= row <= 6
    assert 7 <= column <= 10


def test_only_the_last_frame_of_a_clip_is_scored():
    images = torch.zeros(1, 3, 64, 96)
    early = images.clone()
    early[:, 0] = 1
    assert torch.equal(pooled_error(early, images, 1), pooled_error(images, images, 1))
    late = images.clone()
    late[:, 2] = 1
    assert pooled_error(late, images, 1).min() > 0.9


def test_numpy_and_torch_make_equal_images_of_frames():
    frames = torch.randint(0, 256, (2, 3, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_images(frames), torch.from_numpy(frames_to_images(frames.numpy())))
