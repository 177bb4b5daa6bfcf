import math

import pytest
import torch
from pydantic import ValidationError

from contract.scoring import frames_to_images
from trainer.detector import Detector, pooled_motion, pooled_residual
from trainer.model import Autoencoder, ModelConfig, to_images

VARIANTS = [
    {"bottleneck": "frame", "latent": 7},
    {"bottleneck": "tile", "latent": 5, "tile": 2},
    {"bottleneck": "spatial", "latent": 3},
    {"bottleneck": "frame", "latent": 7, "clip_frames": 3},
    {"bottleneck": "spatial", "latent": 3, "clip_frames": 2, "channels": 3},
    {"bottleneck": "spatial", "latent": 3, "motion": "flow-dis-fast-2"},
    {"bottleneck": "frame", "latent": 7, "clip_frames": 2, "motion": "difference-1"},
]
LATENTS = [(7,), (5, 2, 3), (3, 4, 6), (7,), (3, 4, 6), (3, 4, 6), (7,)]


def config(**changes):
    given = {"height": 64, "width": 96, "widths": (4, 8, 8, 8), "motion": "none", "comparator": None, **changes}
    return ModelConfig(**given)


@pytest.mark.parametrize(("variant", "latent"), list(zip(VARIANTS, LATENTS, strict=True)))
def test_decoder_mirrors_encoder_in_every_variant(variant, latent):
    model = Autoencoder(config(**variant)).eval()
    images = torch.rand(2, model.config.clip_frames * model.config.preprocessing.input_channels, 64, 96)
    codes = model.encoder(images)
    assert codes.shape == (2, *latent)
    reconstruction = model.decoder(codes)
    assert reconstruction.shape == images.shape
    assert reconstruction.min() >= 0
    assert reconstruction.max() <= 1


def test_tile_bottleneck_is_one_fully_connected_layer_over_every_tile():
    model = Autoencoder(config(bottleneck="tile", latent=5, tile=2)).eval()
    images = torch.rand(1, 1, 64, 96)
    seen = torch.cat([images, model.encoder.position[None]], 1)
    before = model.encoder.layers[:-1](seen)  # (1, 8, 4, 6)
    layer = model.encoder.layers[-1]
    weights, bias = layer.weight.flatten(1), layer.bias
    codes = model.encoder(images)
    for row in range(2):
        for column in range(3):
            tile = before[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            assert torch.allclose(codes[0, :, row, column], weights @ tile + bias, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 72},
        {"widths": ()},
        {"comparator": (8, 8)},
        {"comparator": (8, 0, 8)},
        {"bottleneck": "tile", "tile": 3},
        {"latent": 0},
    ],
)
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


def test_what_stands_out_in_two_ways_at_one_place_stands_out_more():
    detector = Detector(Autoencoder(config(motion="flow-dis-fast-2", comparator=(4, 8, 8)))).eval()
    frames = torch.full((1, 1, 64, 96, 3), 128, dtype=torch.uint8)
    with torch.inference_mode():
        errors = detector.cell_errors(frames)[0]
        below = torch.full((8, 12), -2.0)
        for stream, z in enumerate(([3, 3, -2], [-2, 4, -1])):
            here = below.clone()
            here[0, :3] = torch.tensor(z, dtype=torch.float)
            detector.cell_mean[stream] = errors[stream] - here
        score, anomaly_map = detector(frames)
    foreign = torch.sigmoid(errors[0]).mean().item()
    expected = torch.tensor([3.0 / (1 - foreign), 5.0 / (1 - foreign), -1.0])
    expected = torch.sign(expected) * torch.log1p(expected.abs())
    assert torch.allclose(anomaly_map[0, 0, :3], expected, atol=1e-4)
    assert torch.allclose(anomaly_map[0, 4:], torch.full((4, 12), -math.log(3)), atol=1e-4)
    assert score.item() == pytest.approx(math.log(1 + 5 / (1 - foreign)), abs=1e-4)


@pytest.mark.parametrize(("foreign_cells", "normal_share"), [(1, 95 / 96), (48, 1 / 2), (96, 0.01)])
def test_what_stands_out_counts_more_the_less_of_the_picture_looks_normal(monkeypatch, foreign_cells, normal_share):
    detector = Detector(Autoencoder(config(comparator=(4, 8, 8)))).eval()
    logits = torch.full((96,), -30.0)
    logits[:foreign_cells] = 30
    monkeypatch.setattr(detector, "cell_errors", lambda _: logits.reshape(1, 1, 8, 12))
    _, anomaly_map = detector(torch.zeros(1, 1, 64, 96, 1, dtype=torch.uint8))
    assert anomaly_map.flatten()[:foreign_cells].tolist() == pytest.approx(
        [math.log1p(30 / normal_share)] * foreign_cells
    )
    assert anomaly_map.flatten()[foreign_cells:].tolist() == pytest.approx([-math.log(31)] * (96 - foreign_cells))


def test_only_the_last_frame_of_a_clip_is_scored():
    images = torch.zeros(1, 3, 64, 96)
    early = images.clone()
    early[:, 0] = 1
    of_three = config(clip_frames=3)
    assert torch.equal(pooled_residual(early, images, of_three), pooled_residual(images, images, of_three))
    late = images.clone()
    late[:, 2] = 1
    assert pooled_residual(late, images, of_three).min() > 0.9


@pytest.mark.parametrize("motion", ["difference-1", "flow-dis-fast-2"])
def test_motions_channels_are_no_part_of_the_residual(motion):
    moving = config(motion=motion)
    images = torch.rand(1, moving.preprocessing.input_channels, 64, 96)
    other = images.clone()
    other[:, 1:] = 0
    assert torch.equal(pooled_residual(other, images, moving), pooled_residual(images, images, moving))


def test_an_edge_a_little_beside_its_place_weighs_less_than_something_left_out():
    images = torch.zeros(1, 1, 64, 96)
    images[..., 30:62] = 1
    beside = torch.roll(images, 1, 3)
    left_out = images.clone()
    left_out[..., 24:40, 40:56] = 0
    residuals = [pooled_residual(redrawn, images, config()).amax() for redrawn in (beside, left_out)]
    assert 4 * residuals[0] < residuals[1]


def test_flow_is_measured_in_pixels_a_frame_the_slow_counting_less():
    flow = torch.full((1, 1, 64, 96, 3), 128, dtype=torch.uint8)
    flow[..., 16:48, 32:64, 1] += 3 * 16
    flow[..., 16:48, 32:64, 2] -= 4 * 16
    motion = pooled_motion(flow, config(motion="flow-dis-fast-2"))
    assert motion[0, 4, 6].item() == pytest.approx(25 / 5.5, abs=1e-3)
    assert motion[0, 0, 0].item() == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(("motion", "channels"), [("flow-dis-fast-2", 3), ("difference-1", 2)])
def test_motion_is_averaged_over_the_frames(motion, channels):
    frames = torch.randint(0, 256, (2, 3, 64, 96, channels), generator=torch.Generator().manual_seed(0)).byte()
    apart = [pooled_motion(frame, config(motion=motion)) for frame in frames.split(1, 1)]
    assert torch.allclose(pooled_motion(frames, config(motion=motion)), sum(apart) / 3, atol=1e-5)


@pytest.mark.parametrize(("clip_frames", "motion_frames"), [(1, 3), (3, 1), (2, 2)])
def test_each_stream_takes_the_last_frames_that_it_needs(clip_frames, motion_frames):
    model = config(motion="difference-1", clip_frames=clip_frames, motion_frames=motion_frames, comparator=(4, 8, 8))
    assert model.detector_frames == max(clip_frames, motion_frames)
    detector = Detector(Autoencoder(model)).eval()
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, model.detector_frames, 64, 96, 2), generator=random).byte()
    before = detector.cell_errors(frames)
    for stream, taken in enumerate((clip_frames, motion_frames)):
        earlier, earliest = frames.clone(), frames.clone()
        earlier[:, : model.detector_frames - taken] = 0
        earliest[:, model.detector_frames - taken] = 0
        assert torch.equal(detector.cell_errors(earlier)[:, stream], before[:, stream])
        assert not torch.equal(detector.cell_errors(earliest)[:, stream], before[:, stream])
    assert config(motion="none", motion_frames=5).detector_frames == 1


def test_something_fast_counts_about_as_much_alone_as_in_a_crowd():
    alone = torch.full((1, 1, 64, 96, 3), 128, dtype=torch.uint8)
    alone[..., 28:36, 44:52, 1] += 4 * 16
    crowd = alone.clone()
    crowd[..., 1] = torch.where(crowd[..., 1] == 128, 128 + 16, crowd[..., 1])
    speeds = [
        pooled_motion(flow, config(motion="flow-dis-fast-2"))[0, 3:5, 5:7].max().item() for flow in (alone, crowd)
    ]
    assert speeds[0] > 2.5
    assert speeds[1] == pytest.approx(speeds[0], rel=0.3)


def test_the_comparator_is_shown_the_last_frame_its_reconstruction_and_its_place():
    random = torch.Generator().manual_seed(0)
    detector = Detector(Autoencoder(config(clip_frames=2, motion="difference-1", comparator=(4, 8, 8)))).eval()
    images = torch.rand(2, 4, 64, 96, generator=random)
    reconstruction, logits = detector.redraw_and_compare(images)
    assert reconstruction.shape == images.shape
    assert logits.shape == (2, 1, 8, 12)
    seen = torch.cat(
        [images[:, 2:], reconstruction[:, 2:], detector.autoencoder.encoder.position.expand(2, -1, -1, -1)], 1
    )
    assert torch.equal(logits, detector.comparator(seen))
    logits.sum().backward()
    assert all(weight.grad is None for weight in detector.autoencoder.parameters())
    assert detector.by_place == (False, False)


def test_crops_are_compared_as_they_are_in_the_whole_picture():
    detector = Detector(Autoencoder(config(widths=(4, 8), comparator=(4, 8, 8)))).eval()
    images = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    position = detector.autoencoder.encoder.position
    with torch.inference_mode():
        _, whole = detector.redraw_and_compare(images)
        _, crop = detector.redraw_and_compare(images[..., 16:, 16:80], position[None, :, 16:, 16:80])
    assert torch.allclose(crop[0, 0, 3:, 3:5], whole[0, 0, 5:, 5:7], atol=1e-5)


def test_the_map_shows_the_stream_that_stands_out_most():
    detector = Detector(Autoencoder(config(motion="difference-1"))).eval()
    frames = torch.zeros(2, 1, 64, 96, 2, dtype=torch.uint8)
    with torch.inference_mode():
        errors = detector.cell_errors(frames)
        detector.cell_mean.copy_(errors[0])
        detector.cell_spread.fill_(0.05)
        frames[1, 0, 16:32, 16:32, 1] = 40
        _, anomaly_map = detector(frames)
    row, column = divmod(int(anomaly_map[1].argmax()), anomaly_map.shape[2])
    assert (row, column) in {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert anomaly_map[1].max().item() == pytest.approx(math.log1p(40**2 / 48 / 0.05), rel=0.01)


def test_numpy_and_torch_make_equal_images_of_frames():
    frames = torch.randint(0, 256, (2, 3, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_images(frames), torch.from_numpy(frames_to_images(frames.numpy())))
