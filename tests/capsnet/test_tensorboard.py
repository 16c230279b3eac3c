import io

import numpy as np
import pytest
import torch
from PIL import Image

from capsnet.history import results
from capsnet.keeper import Keeper
from capsnet.progressbar import Lines
from capsnet.tensorboard import Board
from capsnet.training import train


@pytest.fixture
def points():
    """Reads what TensorBoard would show: (epoch, value) of a metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder, name):
        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        return [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(name)]

    return read


def test_each_metric_is_a_curve_with_the_times_of_its_measurement(tmp_path, points):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board(tmp_path)
    board.epoch(1, {"test/loss": 0.5, "learning_rate": 0.001}, at=1.7e9)
    board.epoch(2, {"test/loss": 0.25, "learning_rate": 0.0005}, at=1.7e9 + 60)
    board.close()
    assert points(tmp_path, "test/loss") == [(1, 0.5), (2, 0.25)]
    assert points(tmp_path, "learning_rate") == [(1, 0.001), (2, 0.0005)]
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [event.wall_time for event in accumulator.Scalars("test/loss")] == [1.7e9, 1.7e9 + 60]


def test_an_epoch_is_on_the_board_without_closing_it(tmp_path, points):
    board = Board(tmp_path)
    board.epoch(1, {"test/loss": 0.5})
    assert points(tmp_path, "test/loss") == [(1, 0.5)]
    board.close()


def test_a_resumed_run_has_each_point_once(tmp_path, points):
    crashed = Board(tmp_path)
    for epoch in (1, 2, 3):
        crashed.epoch(epoch, {"test/loss": float(epoch)})
    crashed.close()
    resumed = Board(tmp_path, purge_step=3)  # the checkpoint was of epoch 2
    for epoch in (3, 4):
        resumed.epoch(epoch, {"test/loss": epoch + 0.5})
    resumed.close()
    assert points(tmp_path, "test/loss") == [(1, 1), (2, 2), (3, 3.5), (4, 4.5)]


def test_what_the_board_could_not_take_it_gets_at_the_next_epochs_end(
    tmp_path, tiny_config, tiny_splits, points, monkeypatch
):
    really, refused = Board.epoch, []

    def full(self, epoch, *rest):
        if epoch == 2 and not refused:
            refused.append(epoch)
            raise OSError("the disk is full")
        really(self, epoch, *rest)

    monkeypatch.setattr(Board, "epoch", full)
    config, said = tiny_config(), io.StringIO()
    with Keeper(config, tmp_path / "checkpoint.pt", tmp_path / "tensorboard", None, Lines(said)) as keeper:
        for progress in train(config, splits=tiny_splits):
            keeper.see(progress, last=False)
    assert said.getvalue().count("warning: TensorBoard's log cannot be written: the disk is full\n") == 1
    measured = [(row["epoch"], pytest.approx(row["test/loss"])) for row in keeper.history]
    assert points(tmp_path / "tensorboard", "test/loss") == measured
    assert len(measured) == 3


def test_reconstructions_stand_below_their_targets(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    targets, reconstructions = torch.zeros(3, 1, 5, 4), torch.ones(3, 1, 5, 4)
    targets[1] = 1
    board = Board(tmp_path)
    board.images(1, targets, reconstructions)
    board.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    (event,) = accumulator.Images("reconstructions")
    pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("L"))
    assert pixels.shape == (10, 12)
    assert (pixels[5:] == 255).all()
    assert (pixels[:5, 4:8] == 255).all()
    assert pixels[:5, :4].sum() + pixels[:5, 8:].sum() == 0


@pytest.mark.parametrize(("channels", "colour"), [(1, (0, 0, 0)), (2, (0, 0, 0)), (3, (0, 127, 255))])
def test_images_of_two_cameras_show_the_first_one(tmp_path, channels, colour):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images = torch.arange(channels).view(1, channels, 1, 1).expand(2, channels, 4, 4) / 2
    board = Board(tmp_path)
    board.images(1, images, images)
    board.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    (event,) = accumulator.Images("reconstructions")
    shown = Image.open(io.BytesIO(event.encoded_image_string))
    assert shown.size == (8, 8)
    assert shown.convert("RGB").getpixel((0, 0)) == colour


def test_a_picture_is_on_the_board_as_it_was_drawn(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn, file = Image.new("RGB", (7, 5), (10, 200, 30)), io.BytesIO()
    drawn.save(file, "PNG")
    board = Board(tmp_path)
    board.picture(4, "confusion", file.getvalue())
    board.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    (event,) = accumulator.Images("figures/confusion")
    assert event.step == 4
    assert Image.open(io.BytesIO(event.encoded_image_string)).tobytes() == drawn.tobytes()


def test_hyperparameters_stand_beside_the_figures_reached(tmp_path, tiny_config, tiny_splits, points):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    config = tiny_config(num_epochs=1)
    *_, end = train(config, splits=tiny_splits)
    figures = results(end.snapshot()["history"])
    board = Board(tmp_path)
    board.hparams(config, figures, 1)
    board.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    data = getattr(plugin_data_pb2, "HParamsPluginData").FromString(content)  # noqa: B009 - made at run time
    logged = data.session_start_info.hparams
    assert logged["batch_size"].number_value == 16
    assert logged["dataset.name"].string_value == "digits"
    assert points(tmp_path, "validation/best_epoch") == [(1, 1)]
    assert points(tmp_path, "test/accuracy_at_best_epoch") == [(1, figures["best/test/accuracy"])]
    experiment = getattr(plugin_data_pb2, "HParamsPluginData").FromString(  # noqa: B009 - made at run time
        accumulator.SummaryMetadata("_hparams_/experiment").plugin_data.content
    )
    shown = {info.name.tag for info in experiment.experiment.metric_infos}
    assert shown >= {"test/accuracy", "test/accuracy_at_best_epoch", "validation/best_epoch"}


def test_no_group_of_single_points_comes_first(tmp_path, tiny_config, tiny_splits):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(num_epochs=1)
    *_, end = train(config, splits=tiny_splits)
    history = end.snapshot()["history"]
    board = Board(tmp_path)
    for epoch in (1, 2):
        board.epoch(epoch, {name: history[0][name] for name in history[0] if name not in ("epoch", "time")})
    board.hparams(config, results(history), 1)
    board.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    groups = {tag.partition("/")[0] for tag in tags}
    curves = {tag.partition("/")[0] for tag in tags if len(accumulator.Scalars(tag)) == 2}
    assert groups == curves


def test_a_runs_examples_are_test_images_and_what_the_decoder_makes_of_them(tiny_config, tiny_splits):
    *_, end = train(tiny_config(num_epochs=1), splits=tiny_splits)
    examples = end.examples()
    assert examples is not None
    targets, reconstructions = examples
    assert torch.equal(targets, tiny_splits.test.images[:16] / 255)
    assert reconstructions.shape == targets.shape
    errors = (targets - reconstructions).square().flatten(1).sum(1)
    assert 0 < errors.mean() < 144


def test_without_a_decoder_there_are_no_examples(tiny_config, tiny_splits):
    decoder = {"decoder": {"hidden": [512, 1024]}}
    config = tiny_config(loss={"with_reconstruction": False}, model=decoder)
    assert next(train(config, splits=tiny_splits)).examples() is None
