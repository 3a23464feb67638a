"""Configurations that nobody means well with: refused in a line, in bounded time and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.targets import OVERRIDES, TARGETS, attempt
from tskd_ray.config.load import config_to_yaml, load_config
from tskd_ray.config.schema import Config
from tskd_ray.errors import ConfigError

EXAMPLES = settings(
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

BOUNDS = r"A configuration has at most 1,000,000 characters, 10,000 values and 50 levels"


def bomb(levels: int, *, opening: str = "[", between: str = ", ", closing: str = "]") -> str:
    """Each level stands for ten of the one before."""
    lines = ["data:", " environment_kwargs:", f"  a0: &a0 {opening}x{closing}"]
    for level in range(1, levels):
        names = (f"{between}".join([f"*a{level - 1}"] * 10)).replace("#", str(level))
        lines.append(f"  a{level}: &a{level} {opening}{names}{closing}")
    return "\n".join(lines)


def mapping_bomb(levels: int) -> str:
    lines = ["data:", " environment_kwargs:", "  a0: &a0 {x: 1}"]
    for level in range(1, levels):
        items = ", ".join(f"k{number}: *a{level - 1}" for number in range(10))
        lines.append(f"  a{level}: &a{level} {{{items}}}")
    return "\n".join(lines)


TOO_LARGE: dict[str, Callable[[], str]] = {
    "aliases in lists": lambda: bomb(12),
    "aliases in mappings": lambda: mapping_bomb(12),
    "an alias of itself": lambda: "data: {environment_kwargs: {a: &a [*a]}}",
    "a mapping in itself": lambda: "data: {environment_kwargs: &a {a: *a}}",
    "deep lists": lambda: "name: " + "[" * 100_000,
    "deep mappings": lambda: "data: " + "{a: " * 100_000,
    "deep blocks": lambda: "data:\n- " + "- " * 100_000,
    "many values": lambda: f"distill: {{hidden: [{'1,' * 20_000}]}}",
    "many characters": lambda: "#" * 2_000_000,
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_grows_without_bound_is_refused_within_bounds(case: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(TOO_LARGE[case]())
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=BOUNDS) as caught:
            load_config(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{path}:" in str(caught.value)
    assert peak < 100 * 2**20


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ConfigError):
        load_config("/dev/zero")


def test_overrides_have_the_same_bounds() -> None:
    for text in ("[" * 1000, "&a [*a]", "1" + ",1" * 20_000):
        with pytest.raises(ConfigError, match=BOUNDS):
            load_config(None, [f"data.environment_kwargs={{a: [{text}]}}"])
    with pytest.raises(ConfigError, match=BOUNDS):
        load_config(None, [f"{'a.' * 60}b=1"])


def test_aliases_within_the_bounds_are_welcome(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("stitch: {value: &fit {steps: 5}, dynamics: *fit}")
    config = load_config(path)
    assert (config.stitch.value.steps, config.stitch.dynamics.steps) == (5, 5)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!!python/tuple [1]",
        "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]",
        "!!timestamp 2001-01-01", "!!timestamp x", "!!bool maybe", "!!int x", "!!float x",
        "!exponent x", "0x_", "0b_", "9" * 5000, "1" + ":59" * 100_000, '"\\ud800"', "!a b",
        "!!str [a]", "!!map a", "*unknown", "=", "\x00", "@", "`",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["file", "override", "list"])
def test_what_is_no_json_value_is_refused(value: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = f"[1, {value}]" if where == "list" else value
    path.write_text(
        "" if where == "override" else f"data: {{environment_kwargs: {{a: {text}}}}}"
    )
    overrides = [f"data.environment_kwargs={{a: {value}}}"] if where == "override" else []
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert ("override" in message) == (where == "override")


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("1", "Keys must be text. Got 1 in"),
        ("[a]", "Keys must be text. Got a sequence in"),
        ("{a: b}", "Keys must be text. Got a mapping in"),
        ("<<", "Keys must be text. Got << in"),
        ('"a\\nb"', r"Keys must be words of at most 100 characters. Got 'a\nb' in"),
        ("k" * 101, "Keys must be words of at most 100 characters. Got 'kkk"),
        ("b: 1, b", "A key may be given once. Got "),
    ],
)
def test_odd_keys_are_refused_wherever_they_are(key: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    value = f"{{a: [{{{key}: 1}}]}}"
    with pytest.raises(ConfigError) as inside:
        load_config(path, [f"data.environment_kwargs={value}"])
    path.write_text(f"data: {{environment_kwargs: {value}}}")
    with pytest.raises(ConfigError) as in_file:
        load_config(path)
    assert rule in str(inside.value)
    assert rule in str(in_file.value)
    assert f"{path}:1" in str(in_file.value)


def test_numbers_that_no_float_holds_are_not_finite() -> None:
    for value in ("1" + "0" * 350, "1e400", ".inf", "[1, .nan]", "-.inf", "-1" + "0" * 350):
        key = "data.reference_scores" if "[" in value else "generate.target_return"
        with pytest.raises(ConfigError, match=f"{key} must be a finite number"):
            load_config(None, [f"{key}={value}"])
    assert load_config(None, ["generate.target_return=1e300"]).generate.target_return == 1e300


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a" * 300 + "/b.yaml"])
def test_names_that_no_file_has_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/a", "a\n", "", ".a", "a" * 101, "a\0"])
def test_a_runs_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="name must begin with a letter or digit"):
        load_config(
            None, [f"name={name!r}" if name.isprintable() else f'name="{ascii(name)[1:-1]}"']
        )


# -- anything else ---------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["!!int x", "&a b", "*a", "1e999", "0o7", "1_0", "~", "20%", "=", "<<"]),
)  # fmt: skip
PATHS = [
    (section, *((field,) if field else ()))
    for section, value in Config()
    for field in (type(value).model_fields if hasattr(type(value), "model_fields") else [""])
]
KEYS = st.sampled_from(sorted({name for path in PATHS for name in path})) | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@EXAMPLES
@given(path=st.sampled_from(PATHS), value=TREES)
def test_any_value_anywhere_is_taken_or_refused(
    path: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    import yaml

    text = yaml.dump(value, allow_unicode=True, default_flow_style=True, width=10**6)
    override = f"{'.'.join(path)}={text}"
    attempt(TARGETS["overrides"], override.encode("utf-8", "surrogatepass"), tmp_path)
    tree: object = value
    for key in reversed(path):
        tree = {key: tree}
    document = yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    if attempt(TARGETS["config"], document, tmp_path) is None:
        config = load_config(tmp_path / "c.yaml")
        (tmp_path / "again.yaml").write_text(config_to_yaml(config))
        assert load_config(tmp_path / "again.yaml") == config


@EXAMPLES
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@pytest.mark.parametrize("target", ["config", "overrides", "sweep"])
def test_any_bytes_are_taken_or_refused(target: str, data: bytes, tmp_path: Path) -> None:
    attempt(TARGETS[target], data, tmp_path)
    attempt(TARGETS[target], b"stitch.epochs=" + data, tmp_path)


TOKENS = [
    b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!int ", b"!!binary ", b": ", b"- ", b"? ",
    b"<<: ", b"\n", b" ", b"|", b">", b"'", b'"', b"#", b"%", b"---\n", b"1e", b"0x",
    b".inf", b"\xff", b"\x00", b"null", b"9" * 400, b"\t", b"=", b"~",
]  # fmt: skip


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("target", ["config", "overrides", "sweep"])
def test_valid_texts_with_pieces_put_in_or_taken_out(
    target: str, data: st.DataObject, tmp_path: Path
) -> None:
    seeds = OVERRIDES if target == "overrides" else TARGETS[target].seeds(tmp_path)
    text = data.draw(st.sampled_from(seeds))[:1500]
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(text)))
        last = data.draw(st.integers(first, min(first + 20, len(text))))
        text = text[:first] + data.draw(st.sampled_from(TOKENS)) + text[last:]
    attempt(TARGETS[target], text, tmp_path)
