"""The `runner:` block: what it takes, and what it says of the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import yamlfile
from capsnet.yamlfile import ConfigError
from runner.spec import Spec


def spec(**values) -> Spec:
    document = yamlfile.parse(yamlfile.dump({"runner": values}), "a.yaml")
    return yamlfile.validate(Spec, document.data["runner"], document, ("runner",))


def test_the_defaults():
    assert spec().model_dump() == {
        "gpus": "auto",
        "cpus": "auto",
        "priority": 0,
        "max_retries": 3,
        "tags": {},
    }


@pytest.mark.parametrize("gpus", ["auto", 0, 0.0, 0.25, 0.01, 1, 1.0])
def test_gpus_are_auto_none_one_or_a_share_of_one(gpus):
    assert spec(gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", [1.5, 2, 4.0, -1, 0.001, True, None, "all", [1], {}, "1"])
def test_other_gpus_are_refused(gpus):
    with pytest.raises(ConfigError) as caught:
        spec(gpus=gpus)
    assert (
        "runner.gpus: must be auto, 0, 1, or a share of one GPU, as in 0.25: a run trains on one GPU"
    ) in str(caught.value)


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
            "cpus": st.just("auto") | st.integers(1, 99) | st.floats(0.01, 64),
            "priority": st.integers(-99, 99),
            "tags": st.dictionaries(st.from_regex(r"\A[A-Za-z0-9_./ -]{1,20}\Z"), st.text(max_size=50)),
        },
    )
)
def test_a_resolved_block_loads_back_equal(values):
    resolved = spec(**values)
    assert spec(**resolved.model_dump()) == resolved
