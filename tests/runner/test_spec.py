"""The `runner:` block: values that it accepts, and its messages about others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import yamlfile
from capsnet.yamlfile import ConfigError
from runner import loading
from runner.spec import Spec


def spec(**values) -> Spec:
    document = yamlfile.parse(yamlfile.dump({"runner": values}), "a.yaml")
    return yamlfile.validate(Spec, document.data["runner"], document, ("runner",))


def test_the_defaults():
    assert spec().model_dump() == {
        "gpus": "auto",
        "cpus": "auto",
        "workers": "auto",
        "priority": 0,
        "max_retries": 3,
        "tags": {},
    }


@pytest.mark.parametrize("gpus", ["auto", 0, 0.0, 0.25, 0.01, 1, 1.0, 2, 8.0])
def test_gpus_are_auto_a_whole_number_or_a_share_of_one(gpus):
    assert spec(gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", [1.5, 4096, -1, 0.001, True, None, "all", [1], {}, "1"])
def test_other_gpus_are_refused(gpus):
    with pytest.raises(ConfigError) as caught:
        spec(gpus=gpus)
    assert "runner.gpus: must be auto, a whole number, or a share of one GPU, as in 0.25" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "processes"),
    [
        ({}, 1),
        ({"gpus": 0}, 1),
        ({"gpus": 0.5}, 1),
        ({"gpus": 8}, 8),
        ({"gpus": 4, "workers": 4}, 4),
        ({"gpus": 0, "workers": 3}, 3),
        ({"workers": 2}, 2),
        ({"gpus": 1, "workers": 2}, 2),
    ],
)
def test_there_is_a_worker_for_each_gpu_unless_it_is_said_how_many(values, processes):
    assert spec(**values).processes == processes


@pytest.mark.parametrize("workers", [0, -1, 1.5, 2.0, True, None, "two", 4096])
def test_other_numbers_of_workers_are_refused(workers):
    with pytest.raises(ConfigError, match=r"runner\.workers: must be auto, or a whole number from 1 to 1024"):
        spec(workers=workers)


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_several_gpus_have_a_worker_each(workers):
    with pytest.raises(ConfigError) as caught:
        spec(gpus=8, workers=workers)
    assert (
        str(caught.value) == f"a.yaml:3: runner.workers: must be auto or 8, one for each GPU (got {workers})"
    )


def test_a_batch_that_the_workers_cannot_share_is_refused_with_its_line():
    with pytest.raises(ConfigError) as caught:
        loading.parse("batch_size: 4\nrunner: {gpus: 8}\n", "a.yaml")
    assert str(caught.value).startswith(
        "a.yaml:1: batch_size: a batch of 4 images cannot be shared by 8 workers"
    )


@pytest.mark.parametrize("cpus", ["auto", 0.5, 2, 1.5])
def test_cpus_are_auto_or_a_number(cpus):
    assert spec(cpus=cpus).cpus == cpus


@pytest.mark.parametrize("cpus", [0, -2, False, "many", float("inf"), float("nan")])
def test_other_cpus_are_refused(cpus):
    with pytest.raises(ConfigError, match=r"runner\.cpus: must be auto, or a number above 0"):
        document = yamlfile.parse("runner: {cpus: 1}", "a.yaml")
        yamlfile.validate(Spec, {"cpus": cpus}, document, ("runner",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_retries": -1}, "a.yaml:2: runner.max_retries: must be at least 0 (got -1)"),
        ({"priority": 1.5}, "a.yaml:2: runner.priority: must be a whole number (got 1.5)"),
        ({"tags": {"seed": 3}}, "a.yaml:3: runner.tags.seed: must be text (in quotes, if need be) (got 3)"),
        ({"tags": ["a"]}, 'a.yaml:2: runner.tags: must be a mapping of keys to values (got ["a"])'),
        (
            {"tags": {"a=b": "x"}},
            'a.yaml:3: runner.tags.a=b: must be at most 200 letters, digits, spaces and _ . / - (got "a=b")',
        ),
        ({"gpu": 1}, "a.yaml:2: runner.gpu: unknown key; did you mean `runner.gpus`?"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(values, message):
    with pytest.raises(ConfigError) as caught:
        spec(**values)
    assert str(caught.value) == message


def test_a_tag_longer_than_the_tracker_takes_is_refused():
    with pytest.raises(ConfigError, match=r"runner\.tags\.note: must be at most 5000 characters"):
        spec(tags={"note": "x" * 5001})


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "gpus": st.just("auto") | st.integers(0, 1) | st.floats(0.01, 0.99),
            "workers": st.just("auto") | st.integers(1, 9),
            "cpus": st.just("auto") | st.integers(1, 99) | st.floats(0.01, 64),
            "priority": st.integers(-99, 99),
            "tags": st.dictionaries(st.from_regex(r"\A[A-Za-z0-9_./ -]{1,20}\Z"), st.text(max_size=50)),
        },
    )
)
def test_a_resolved_block_loads_back_equal(values):
    resolved = spec(**values)
    assert spec(**resolved.model_dump()) == resolved
