"""Strict YAML: what is read, what is refused, and which line a message names."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from capsnet import yamlfile, yamltext
from capsnet.yamlfile import ConfigError


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


def mistakes_of(text: str, *overrides: str) -> list[str]:
    """The mistakes, one line each, of a file in which every key is known."""
    with pytest.raises(ConfigError) as caught:
        document = yamlfile.with_overrides(yamlfile.parse(text, "a.yaml"), overrides)
        yamlfile.validate(Anything, document.data, document)
    return str(caught.value).splitlines()


def value_of(word: str) -> object:
    return yamlfile.parse(f"key: {word}", "a.yaml").data["key"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("true", True),
        ("Yes", True),
        ("off", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("e3", "e3"),
        (".", "."),
        ('"1e-3"', "1e-3"),
        ("'on'", "on"),
        ("[1, [2.0, x]]", [1, [2.0, "x"]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("|\n  two\n  lines", "two\nlines"),
        ("ünï — 日本 🙂", "ünï — 日本 🙂"),
    ],
)
def test_a_plain_word_means_what_it_looks_like(word, value):
    read = value_of(word)
    assert read == value
    assert type(read) is type(value)


def test_a_list_under_a_dash_needs_no_key():
    assert value_of("\n  - 40\n  - 80") == [40, 80]


@pytest.mark.parametrize("word", [".inf", "-.Inf", ".NaN", "1e999"])
def test_numbers_that_are_not_finite_are_floats_for_the_schema_to_refuse(word):
    value = value_of(word)
    assert isinstance(value, float)
    assert value != value or abs(value) == float("inf")


def test_minus_infinity_keeps_its_sign():
    assert value_of("-.inf") == -float("inf")


@pytest.mark.parametrize("word", ["010", "-007", "08", "0_1"])
def test_a_leading_zero_is_refused_because_yaml_versions_read_it_differently(word):
    assert mistakes_of(f"seed: {word}") == [
        "a.yaml:1: seed: a leading zero makes it octal or decimal, depending on the YAML version; "
        f"drop the zero (got {word})"
    ]


@pytest.mark.parametrize("word", ["9223372036854775808", "-9223372036854775809", "0x" + "f" * 20, "9" * 5000])
def test_a_whole_number_beyond_64_bits_is_refused(word):
    (line,) = mistakes_of(f"seed: {word}")
    assert line.startswith("a.yaml:1: seed: does not fit 64 bits")
    assert len(line) < 160


def test_keys_are_text_even_where_they_look_like_something_else():
    assert yamlfile.parse("{on: 1, 2: 3, null: 4, 010: 5}", "a.yaml").data == {
        "on": 1,
        "2": 3,
        "null": 4,
        "010": 5,
    }


def test_a_duplicate_key_is_named_with_both_lines():
    assert mistakes_of("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2") == [
        "a.yaml:5: b.c: duplicate key, first on line 3",
        "a.yaml:6: a: duplicate key, first on line 1",
    ]


@pytest.mark.parametrize(
    "text",
    ["a:\n\tb: 1\n", "a: 1\n\tb: 2\n", "a:\n  b: 1\n\tc: 2\n", "\ta: 1\n", "a:\n  - 1\n\t- 2\n"],
)
def test_a_tab_is_called_a_tab(text):
    (line,) = mistakes_of(text)
    assert line.endswith(": a tab: YAML is indented with spaces")


def test_a_tab_between_a_key_and_its_value_is_harmless():
    assert yamlfile.parse("a:\t1", "a.yaml").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml: is empty: write at least one key"),
        ("# nothing\n", "a.yaml: is empty: write at least one key"),
        ("---\n...\n", "a.yaml: is empty: write at least one key"),
        ("- a\n- b", 'a.yaml:1: must be a mapping, one `key: value` a line (got ["a", "b"])'),
        ("\nlr:0.1", 'a.yaml:2: must be a mapping, one `key: value` a line (got "lr:0.1")'),
        ("a: 1\n---\nb: 2", "a.yaml:2: a second YAML document (`---`): one file describes one run"),
        ("a: [1, 2", "a.yaml:1: is not valid YAML: did not find expected ',' or ']'"),
        (
            "a: [1, 2\nb: 3",
            "a.yaml:2: is not valid YAML: did not find expected ',' or ']' "
            "while parsing a flow sequence from line 1",
        ),
        ("a: 1\nb: @x", "a.yaml:2: is not valid YAML: found character that cannot start any token"),
        ("a: 1\nb: c: d", "a.yaml:2: is not valid YAML: mapping values are not allowed in this context"),
        ("a: 1\nb: x\0y", "a.yaml:2: is not text: it holds the character U+0000"),
        ("a: \x1b[31m", "a.yaml:1: is not text: it holds the character U+001B"),
        ("a: &x 1\n<<: *x", "a.yaml:2: merge keys (`<<`) are not supported: write the keys out"),
        ("a: 1\n? [b]\n: c", "a.yaml:2: a key must be a word"),
        ("a: 1\n*b : c", "a.yaml:2: a key must be a word"),
        ("a: *b", "a.yaml:1: a: the alias *b stands for nothing whole"),
        ("a: &a [*a]", "a.yaml:1: a.0: the alias *a stands for nothing whole"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    assert mistakes_of(text) == [message]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system",
        "!!python/name:os.system",
        "!!python/tuple",
        "!!set",
        "!mine",
        "!!float",
    ],
)
def test_a_tag_is_refused_and_runs_nothing(tag, tmp_path):
    target = tmp_path / "written"
    (line,) = mistakes_of(f'ok: 1\nbad: {tag} ["touch {target}"]')
    assert line == f"a.yaml:2: bad: the tag {tag} is not allowed: write plain values"
    assert not target.exists()


def test_an_alias_stands_for_its_value():
    assert yamlfile.parse("a: &x [1, 2]\nb: *x", "a.yaml").data == {"a": [1, 2], "b": [1, 2]}


def test_an_alias_bomb_is_refused_before_it_grows():
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    (line,) = mistakes_of("\n".join(levels))
    assert line == "a.yaml:4: l3.7: more than 10,000 values, aliases expanded"


@pytest.mark.parametrize("depth", [50, 100_000])
def test_deep_nesting_is_refused_and_does_not_crash(depth):
    (line,) = mistakes_of("a: " + "[" * depth)
    assert line.removeprefix("a.yaml:1: ") in (
        "a.0: is nested deeper than 20 levels",
        "is nested deeper than 20 levels",
    )


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        yamlfile.read(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path}/none.yaml: no such file"


def test_a_directory_is_one_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        yamlfile.read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a directory; name a YAML file"


def test_what_never_ends_or_never_begins_is_one_line_and_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zeros.yaml").symlink_to("/dev/zero")
    for name, kind in [("pipe.yaml", "FIFO"), ("zeros.yaml", "device")]:
        with pytest.raises(ConfigError) as caught:
            yamlfile.read(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: is a {kind}; name a YAML file"


def test_a_pipe_that_the_shell_has_made_is_read():
    """The shell makes such a pipe for `validate <(sed ...)`."""
    reader, writer = os.pipe()
    os.write(writer, b"num_epochs: 3\n")
    os.close(writer)
    assert yamlfile.read(f"/dev/fd/{reader}").data == {"num_epochs": 3}
    os.close(reader)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.touch(mode=0o000)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        yamlfile.read(file)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "cfg_sample.yaml/a.yaml"])
def test_a_path_that_cannot_be_is_one_line(path):
    with pytest.raises(ConfigError) as caught:
        yamlfile.read(path)
    assert str(caught.value).count("\n") == 0


def test_a_large_file_is_refused_without_being_read(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(10 * 2**20)
    with pytest.raises(ConfigError) as caught:
        yamlfile.read(file)
    assert str(caught.value) == f"{file}: is larger than 256 KiB: not a configuration"


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    file = tmp_path / "latin1.yaml"
    file.write_bytes("name: a\n# größe\n".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        yamlfile.read(file)
    assert str(caught.value) == f"{file}:2: is not UTF-8 text (byte 0xf6)"


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [x]\r\n")
    document = yamlfile.read(file)
    assert document.data == {"a": 1, "b": ["x"]}
    assert document.lines[("b",)] == 2


def test_each_key_and_item_knows_its_line():
    document = yamlfile.parse("a: 1\n\nb:\n  c:\n  - 5\n  - 6\n  d: &x {e: 1}\nf: *x", "a.yaml")
    assert document.lines[("a",)] == 1
    assert document.lines[("b", "c")] == 4
    assert document.lines[("b", "c", 1)] == 6
    assert document.place(("b", "d", "e")) == ("a.yaml", 7)
    assert document.place(("f", "e")) == ("a.yaml", 8)
    assert document.place(("nowhere",)) == ("a.yaml", None)


def test_an_override_is_put_over_the_file_and_leaves_the_rest():
    document = yamlfile.parse("a: {b: 1, c: 2}\nd: 3", "a.yaml")
    changed = yamlfile.with_overrides(document, ["a.b=1e-3", "e.f=[1, {g: yes}]", "d=", "h.i=a=b"])
    assert changed.data == {
        "a": {"b": 0.001, "c": 2},
        "d": None,
        "e": {"f": [1, {"g": True}]},
        "h": {"i": "a=b"},
    }
    assert document.data == {"a": {"b": 1, "c": 2}, "d": 3}


def test_an_override_does_not_change_what_an_alias_shares():
    document = yamlfile.parse("a: &x {b: 1}\nc: *x", "a.yaml")
    assert yamlfile.with_overrides(document, ["a.b=2"]).data == {"a": {"b": 2}, "c": {"b": 1}}


def test_the_blame_for_an_override_is_its_own():
    document = yamlfile.with_overrides(yamlfile.parse("a: {b: 1}", "a.yaml"), ["a={b: 2}", "a.c=3"])
    assert document.place(("a", "b")) == ("--set a={b: 2}", None)
    assert document.place(("a", "c")) == ("--set a.c=3", None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["a"], "--set a: must read key=value, as in optim.lr=0.01"),
        (["=1"], "--set =1: must read key=value, as in optim.lr=0.01"),
        (["a..b=1"], "--set a..b=1: must read key=value, as in optim.lr=0.01"),
        (["a=[1"], "--set a=[1: is not valid YAML: did not find expected ',' or ']'"),
        (
            ["a=!!python/name:os.system x"],
            "--set a=!!python/name:os.system x: the tag !!python/name:os.system",
        ),
        (["a=1", "a=2"], "--set a=2: would undo --set a=1"),
        (["a.b=1", "a={}"], "--set a={}: would undo --set a.b=1"),
        (["a={b: 1, b: 2}"], "--set a={b: 1, b: 2}: a.b: duplicate key"),
        (["a=010"], "--set a=010: a leading zero"),
    ],
)
def test_an_override_that_cannot_be_taken_is_one_line(overrides, message):
    (line,) = mistakes_of("z: 1", *overrides)
    assert line.startswith(message)


def test_all_mistakes_of_file_and_overrides_are_reported_in_order():
    lines = mistakes_of("a: !x 1\nb: 010\na: 2", "c", "d=[")
    assert [line.partition(" ")[0] for line in lines] == [
        "a.yaml:1:",
        "a.yaml:2:",
        "a.yaml:3:",
        "--set",
        "--set",
    ]


def test_a_message_shows_neither_long_values_nor_terminal_codes():
    text = 'a: {"\\e[31m' + "k" * 1000 + '": !x 1}'
    (line,) = mistakes_of(text)
    assert "\x1b" not in line
    assert len(line) < 250


words = st.text() | st.sampled_from(
    [
        "",
        "on",
        "1e-3",
        "010",
        "~",
        ".inf",
        "a: b",
        "- a",
        "# no",
        "'",
        '"',
        "a #b",
        "...",
        "---",
        "<<",
        "2020-01-01",
    ]
)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(words, plain_values, min_size=1, max_size=4))
def test_what_is_written_reads_back_equal(values):
    assert yamlfile.parse(yamlfile.dump(values), "a.yaml").data == values


@settings(deadline=None)
@given(st.dictionaries(words, plain_values, min_size=1, max_size=4))
def test_what_is_written_is_the_same_to_other_readers_of_yaml(values):
    assert yaml.safe_load(yamlfile.dump(values)) == values


def test_the_parser_without_libyaml_reads_the_same(monkeypatch):
    monkeypatch.setattr(yamltext, "_Loader", yaml.SafeLoader)
    text = "a: 1e-3\nb:\n  - {c: on}\n"
    document = yamlfile.parse(text, "a.yaml")
    assert document.data == {"a": 0.001, "b": [{"c": True}]}
    assert document.lines[("b", 0, "c")] == 3
    assert mistakes_of("a: 1\n\tb: 2") == ["a.yaml:2: a tab: YAML is indented with spaces"]
    assert mistakes_of("a: " + "[" * 5000)[0].endswith("is nested deeper than 20 levels")


def test_a_file_named_relatively_is_named_so_in_messages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"^a\.yaml:"):
        yamlfile.read("a.yaml")


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(" \t\n:-[]{}&*!|>'\"%@#,?a1.~<=\\", max_size=40).map(str.encode))
def test_whatever_a_file_holds_it_is_read_or_refused_in_lines_that_can_be_shown(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        assert isinstance(yamlfile.read(file).data, dict)
    except ConfigError as error:
        assert error.mistakes
        assert all(str(mistake).isprintable() for mistake in error.mistakes)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_whatever_an_override_holds_its_mistakes_are_lines_that_can_be_shown(text):
    document = yamlfile.with_overrides(yamlfile.parse("a: 1", "a.yaml"), [text])
    _, mistakes = yamlfile.check(Nothing, document.data, document)
    for line in map(str, [*document.mistakes, *mistakes]):
        assert line.isprintable()
        assert len(line) < 600
