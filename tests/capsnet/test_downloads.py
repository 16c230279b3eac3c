"""Downloads in general; each data set's own download is tested with its reader."""

import threading
from functools import partial

import pytest
from patience import PATIENCE

from capsnet import downloads
from capsnet.images import DataError

NAMES = ["first", "second"]


def lacking(root, place="set/raw"):
    return [name for name in NAMES if not (root / place / name).exists()]


def fetch(folder, names):
    for name in names:
        (folder / name).write_text(f"downloaded {name}")
    return folder


def complete(root, fetch, **options):
    downloads.complete(root, "set/raw", partial(lacking, root), fetch, **options)


def test_what_is_missing_is_fetched_into_its_place_and_nothing_else_is_left(tmp_path):
    root = tmp_path / "new"
    complete(root, fetch)
    assert (root / "set/raw/second").read_text() == "downloaded second"
    assert sorted(path.name for path in root.iterdir()) == [".download.lock", "set"]


def test_a_misspelt_path_is_named_and_none_of_its_folders_is_made(tmp_path):
    asked = []
    with pytest.raises(DataError) as caught:
        complete(tmp_path / "dtaa/mnist", lambda folder, names: asked.append(names))
    assert str(caught.value) == (
        f"there is no folder {tmp_path}/dtaa to put mnist/set/raw in: correct dataset.root or CAPSNET_DATA, "
        "or make that folder"
    )
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "set/raw").mkdir(parents=True)
    (tmp_path / "set/raw/first").write_text("mine")
    asked = []
    complete(tmp_path, lambda folder, names: asked.extend(names) or fetch(folder, NAMES))
    assert asked == ["second"]
    assert (tmp_path / "set/raw/first").read_text() == "mine"


def test_where_nothing_is_missing_nothing_is_touched(tmp_path):
    (tmp_path / "set/raw").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "set/raw" / name).write_text("mine")
    complete(tmp_path, lambda *_: pytest.fail("nothing is to be fetched"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [OSError, RuntimeError, ImportError])
def test_a_failed_download_leaves_nothing_behind_and_is_one_line(tmp_path, error):
    def fail(folder, names):
        (folder / names[0]).write_text("half a fi")
        raise error("refused\nfor a reason")

    with pytest.raises(DataError) as caught:
        complete(tmp_path, fail)
    assert str(caught.value) == (
        f"{tmp_path}/set/raw lacks first, second, and downloading failed (for a reason): "
        "put the files there, or set dataset.root or CAPSNET_DATA to the folder that holds set/raw"
    )
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]


def test_files_that_may_be_packed_are_said_to(tmp_path):
    def fail(*_):
        raise TimeoutError

    with pytest.raises(DataError, match=r"failed \(TimeoutError\): put the files there, gzipped or not, or"):
        complete(tmp_path, fail, gzipped=True)


def test_a_download_that_lacks_a_file_says_so_and_can_be_tried_again(tmp_path):
    with pytest.raises(DataError, match=r"lacks first, second, and downloading failed \(.*second"):
        complete(tmp_path, lambda folder, names: fetch(folder, names[:1]))
    complete(tmp_path, fetch)
    assert lacking(tmp_path) == []


def test_what_a_killed_download_left_goes_with_the_next_one(tmp_path):
    left = tmp_path / f"{downloads.TEMPORARY}abc"
    left.mkdir()
    (left / "first").write_text("half of it")
    complete(tmp_path, fetch)
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".download.lock", "set"]


def test_what_a_download_prints_is_no_output(tmp_path, capsys):
    complete(tmp_path, lambda folder, names: print("50%") or fetch(folder, names))
    assert capsys.readouterr() == ("", "50%\n")


def test_of_runs_that_start_together_one_downloads(tmp_path):
    start, again, fetched = threading.Barrier(3), threading.Event(), []

    def slow(folder, names):
        if fetched:
            again.set()
        fetched.append(names)
        again.wait(0.5)  # as long as the others have to begin as well
        return fetch(folder, names)

    def run():
        start.wait(PATIENCE)
        complete(tmp_path, slow)

    runs = [threading.Thread(target=run) for _ in range(3)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join(PATIENCE)
    assert fetched == [NAMES]
    assert lacking(tmp_path) == []


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"/file is no folder to put set/raw in: correct dataset\.root"):
        complete(tmp_path / "file", fetch)
