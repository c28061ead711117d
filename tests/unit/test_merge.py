import json
import re

import pytest
import yaml

from kolla_salt.merge import MergeError, Source, format_of, merge, parse_ini


def ini(*texts, **kwargs):
    return merge("ini", [Source(f"source{n}", text) for n, text in enumerate(texts)], **kwargs)


def yml(*texts):
    return merge("yaml", [Source(f"source{n}", text) for n, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # normalised spacing, both delimiters
        (["[DEFAULT]\na=1\nb:  2\n"], "[DEFAULT]\na = 1\nb = 2\n"),
        # the first delimiter splits
        (["[a]\nurl = http://x:5000/v3?a=b\n"], "[a]\nurl = http://x:5000/v3?a=b\n"),
        # comments and empty lines go
        (["# c\n[a]\n; d\n\nx = 1\n#e\ny = 2\n"], "[a]\nx = 1\ny = 2\n"),
        # a later source replaces a key, others stay, new ones follow
        (["[a]\nx = 1\ny = 2\n", "[a]\nz = 4\nx = 3\n"], "[a]\nx = 3\ny = 2\nz = 4\n"),
        # a repeated key of one source keeps all values
        (["[a]\nx = 1\nx = 2\ny = 0\n"], "[a]\nx = 1\nx = 2\ny = 0\n"),
        # a later source replaces the whole list, longer or shorter
        (["[a]\nx = 1\nx = 2\n", "[a]\nx = 3\n"], "[a]\nx = 3\n"),
        (["[a]\nx = 1\n", "[a]\nx = 3\nx = 4\n"], "[a]\nx = 3\nx = 4\n"),
        # a section that appears twice is one
        (["[a]\nx = 1\n[b]\ny = 1\n[a]\nz = 1\nx = 2\n"], "[a]\nx = 1\nx = 2\nz = 1\n\n[b]\ny = 1\n"),
        # a new section follows the known ones
        (["[b]\nx = 1\n", "[a]\ny = 1\n[b]\nx = 2\n"], "[b]\nx = 2\n\n[a]\ny = 1\n"),
        # keys before any section stay in front, even when a later source brings them
        (["k = 1\n[a]\nx = 1\n"], "k = 1\n\n[a]\nx = 1\n"),
        (["[a]\nx = 1\n", "k = 1\n"], "k = 1\n\n[a]\nx = 1\n"),
        # values over several lines
        (["[a]\nx = 1,\n  2,\n\t3\ny = 4\n"], "[a]\nx = 1,\n    2,\n    3\ny = 4\n"),
        (["[a]\nx =\n  1\n  2\n"], "[a]\nx =\n    1\n    2\n"),
        (["[a]\nx =\n  1\n  2\n", "[a]\nx = 3\n"], "[a]\nx = 3\n"),
        # an indented comment inside a value belongs to it, as oslo.config reads it
        (["[a]\nx = 1\n  # 2\n"], "[a]\nx = 1\n    # 2\n"),
        # quotes are the reader's business
        (["[a]\nx = \" b \"\ny = 'c'\n"], "[a]\nx = \" b \"\ny = 'c'\n"),
        # empty values and sections
        (["[a]\nx =\n"], "[a]\nx =\n"),
        (["[a]\n[b]\nx = 1\n"], "[a]\n\n[b]\nx = 1\n"),
        # keys differ by case
        (["[a]\nX = 1\nx = 2\n"], "[a]\nX = 1\nx = 2\n"),
        # percent and dollar signs are plain text
        (["[a]\nx = %(y)s $z %d\n"], "[a]\nx = %(y)s $z %d\n"),
        # Windows line ends
        (["[a]\r\nx = 1\r\n"], "[a]\nx = 1\n"),
        ([""], ""),
        ([], ""),
    ],
)
def test_ini_texts_merge_key_by_key(texts, expected):
    assert ini(*texts) == expected


def test_merged_ini_is_stable():
    text = ini("k = 1\n[a]\nx = 1\nx =\n 2\n 3\n[b]\n", "[c]\ny: 1\n")
    assert ini(text) == text
    assert ini(text, text) == text


def test_flags_and_includes_of_my_cnf_are_kept():
    text = "[mysqld]\nskip-name-resolve\nport = 3306\nplugin:x=1\n!includedir /etc/mysql/conf.d/\n"
    assert ini(text, flags=True) == (
        "[mysqld]\nskip-name-resolve\nport = 3306\nplugin:x = 1\n!includedir /etc/mysql/conf.d/\n"
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[a]\nx = 1\n[b\n", 3, "section header"),
        ("[]\n", 1, "section header"),
        ("[a] # b\n", 1, "section header"),
        ("[a]\nnonsense\n", 2, "no '='"),
        ("[a]\n= 1\n", 2, "no key"),
        ("  x = 1\n", 1, "indented"),
        ("[a]\n  x = 1\n", 2, "indented"),
        ("[a]\nx = 1\n\n  2\n", 4, "indented"),
    ],
)
def test_broken_ini_is_refused_with_source_and_line(text, line, says):
    with pytest.raises(MergeError, match=re.escape(f"source1, line {line}: ") + ".*" + says) as caught:
        ini("[a]\nx = 1\n", text)
    assert (caught.value.source, caught.value.line) == ("source1", line)


def test_parsed_ini_has_all_values():
    assert parse_ini("x", "k = 0\n[a]\nx = 1\nx = 2\n") == {"": {"k": ["0"]}, "a": {"x": ["1", "2"]}}


def test_oslo_config_reads_what_was_merged(tmp_path):
    cfg = pytest.importorskip("oslo_config.cfg")
    path = tmp_path / "x.conf"
    path.write_text(ini("[a]\nm = 1\nm = 2\nl = 1,\n 2\n", "[a]\nm = 3\nm = 4\n"))
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.MultiStrOpt("m"), cfg.StrOpt("l")], group="a")
    conf(["--config-file", str(path)])
    assert conf.a.m == ["3", "4"]
    assert conf.a.l == "1,\n2"


def test_yaml_mappings_merge_and_lists_are_replaced():
    merged = yml("a: {x: 1, y: [1, 2]}\nb: 1\n", "a: {y: [3], z: 4}\n", "c: {d: 1}\n")
    assert yaml.safe_load(merged) == {"a": {"x": 1, "y": [3], "z": 4}, "b": 1, "c": {"d": 1}}
    assert list(yaml.safe_load(merged)) == ["a", "b", "c"]


def test_yaml_scalars_are_not_converted():
    merged = yml("times: [09:00, 10:30]\nversion: 1.10\nmode: 0644\nword: on\n", "more: '010'\n")
    for scalar in ("09:00", "1.10", "0644", "word: on", "'010'"):
        assert scalar in merged


def test_yaml_type_changes_are_replacements():
    assert yaml.safe_load(yml("a: {b: 1}\n", "a: [1]\n")) == {"a": [1]}
    assert yaml.safe_load(yml("- 1\n", "- 2\n")) == [2]


def test_one_yaml_source_stays_as_written():
    text = "# why\na:   1\n"
    assert yml(text) == text


def test_empty_yaml_sources_do_not_count():
    assert yaml.safe_load(yml("a: 1\n", "# nothing\n")) == {"a": 1}
    assert yml("# nothing\n", "") == ""


def test_long_yaml_strings_are_not_folded():
    value = "word " * 100 + "end"
    assert f"a: {value}\n" in yml(f"a: {value}\n", "b: 1\n")


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: [\n", 3), ("a: 1\n b: 2\n", 2)])
def test_broken_yaml_is_refused_with_source_and_line(text, line):
    with pytest.raises(MergeError, match=f"source1, line {line}: not YAML"):
        yml("a: 1\n", text)


def test_json_merges_recursively():
    merged = merge("json", [Source("a", '{"a": {"x": 1, "y": [1]}}'), Source("b", '{"a": {"y": [2]}, "b": null}')])
    assert json.loads(merged) == {"a": {"x": 1, "y": [2]}, "b": None}


def test_broken_json_is_refused_with_source_and_line():
    with pytest.raises(MergeError, match="b, line 2: not JSON"):
        merge("json", [Source("a", "{}"), Source("b", '{"a": 1,\n}')])


def test_last_text_replaces_the_others():
    assert merge("text", [Source("a", "one\n"), Source("b", "two")]) == "two\n"
    assert merge("text", []) == ""


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match="toml"):
        merge("toml", [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("glance-api.conf", "ini"),
        ("galera.cnf", "ini"),
        ("glance-api-uwsgi.ini", "ini"),
        ("policy.yaml", "yaml"),
        ("prometheus.yml", "yaml"),
        ("definitions.json", "json"),
        ("haproxy.cfg", "text"),
        ("enabled_plugins", "text"),
    ],
)
def test_format_follows_the_suffix(name, expected):
    assert format_of(name) == expected
