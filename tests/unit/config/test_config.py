"""config.toml: the committed file is the defaults, mistakes are all reported at once."""

import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from streamrecon.config import Config, load_config
from streamrecon.errors import ConfigError
from streamrecon.reconstruct.settings import EngineSettings

CONFIG = Path(__file__).parents[3] / "config.toml"


def test_committed_file_holds_every_key_at_its_default():
    raw = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    defaults = Config().model_dump(mode="json")
    defaults["engine"] = asdict(EngineSettings())
    assert raw == defaults


def test_committed_file_explains_every_key():
    text = CONFIG.read_text(encoding="utf-8")
    for block in text.split("\n\n")[1:]:
        lines = block.strip().splitlines()
        assert re.fullmatch(r"\[\w+\]", lines[0])
        assert lines[1].startswith("#"), f"{lines[0]} begins without a comment"


def test_paths_are_taken_from_the_files_own_folder(tmp_path):
    (tmp_path / "c.toml").write_text('[session]\noutput_dir = "out"\n[watch]\nroot = "/abs/in"\n')
    config = load_config(tmp_path / "c.toml")
    assert config.session.output_dir == tmp_path / "out"
    assert config.watch.root == Path("/abs/in")


def test_every_mistake_is_named_at_once(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[feed]\nbatch_size = 0\ncredit = 3\n[engine]\nsample = 3\n[monitor]\nbind = "nowhere"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    for part in (str(path), "feed.batch_size", "feed.credit", "engine", "sample", "monitor.bind"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[engine]\nsamples = 0\n", "samples"),
        ("[engine]\nin_plane_angles = 47\n", "in_plane_angles"),
        ("[engine]\ndirection_order = 3\n", "direction_order"),
        ("[engine]\ndefensive_share = 1.5\n", "defensive_share"),
        ("[engine]\nsearch_shells = 2\n", "search_shells"),
        ("[compute]\ndevices = []\n", r"compute\.devices"),
        ('[compute]\ndevices = [0, 1]\n[engine]\nmethod = "adagrad"\n', "name one device, or use that method"),
        ("[compute]\ndevices = [0, -1]\n", r"compute\.devices"),
        ("[compute]\npatience_seconds = 0\n", r"compute\.patience_seconds"),
    ],
)
def test_engine_values_that_cannot_work_are_refused(tmp_path, text, names):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=names):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('method = "newton"', "sgd"),
        ('method = "sgd"\nprior = "car"', "prior must be"),
        ('method = "sgd"\nsymmetry = "D2"', 'symmetry "C1"'),
        ('method = "adagrad"\nnon_negative = true', "non_negative"),
        ('method = "sgd"\nstep_size = -1.0', "step_size must not be negative"),
        ("step_decay_images = 0.0", "step_decay_images must be positive"),
    ],
)
def test_methods_that_cannot_be_are_refused_in_words(tmp_path, text, says):
    path = tmp_path / "c.toml"
    path.write_text(f"[engine]\n{text}\n")
    with pytest.raises(ConfigError, match=says):
        load_config(path)
    path.write_text('[engine]\nmethod = "hessian_free"\nstep_size = 2.0\n')
    assert load_config(path).engine.method == "hessian_free"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[watch]\nrot = "in"\n', r"watch\.rot: there is no such key; did you mean watch\.root\?"),
        ("[engin]\n", r"engin: there is no such table; did you mean engine\?"),
        ("[session]\nzzz = 1\n", r"session\.zzz: there is no such key; config\.toml of the distribution"),
        ("[watch]\nsettle_seconds = -1.5\n", r"1 error\n.*settle_seconds: .*equal to 0, found -1\.5"),
    ],
)
def test_a_mistake_says_what_was_found_or_meant(tmp_path, text, says):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("[session\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize("key", ["feed.endpoint", "publish.volumes", "monitor.bind"])
def test_open_sockets_must_be_asked_for_in_words(tmp_path, key):
    table, name = key.split(".")
    value = "0.0.0.0:9000" if key == "monitor.bind" else "tcp://0.0.0.0:9000"
    path = tmp_path / "c.toml"
    path.write_text(f'[{table}]\n{name} = "{value}"\n')
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_config(path)
    path.write_text(f'[{table}]\n{name} = "{value}"\n[security]\nallow_plaintext_on_network = true\n')
    assert load_config(path).security.allow_plaintext_on_network


@pytest.mark.parametrize(
    "key", ["feed.endpoint", "publish.events", "publish.volumes", "publish.snapshots", "control.endpoint"]
)
def test_curve_opens_the_zeromq_sockets(tmp_path, key):
    table, name = key.split(".")
    path = tmp_path / "c.toml"
    path.write_text(f'[{table}]\n{name} = "tcp://0.0.0.0:9000"\n[security]\ncurve_dir = "keys"\n')
    assert load_config(path).security.curve_folder == tmp_path / "keys"


@pytest.mark.parametrize("more", ["", "[security]\nallow_plaintext_on_network = true\n"])
def test_nothing_but_curve_opens_the_control_socket(tmp_path, more):
    """Whoever reached it could end the session."""
    path = tmp_path / "c.toml"
    path.write_text(f'[control]\nendpoint = "tcp://0.0.0.0:9000"\n{more}')
    with pytest.raises(ConfigError, match=r"control\.endpoint.*keygen"):
        load_config(path)


@pytest.mark.parametrize("endpoint", ["", "tcp://localhost:9000", "ipc:///run/streamrecon/control"])
def test_control_on_this_host_needs_no_keys(tmp_path, endpoint):
    path = tmp_path / "c.toml"
    path.write_text(f'[control]\nendpoint = "{endpoint}"\n')
    assert load_config(path).control.endpoint == endpoint


def test_curve_does_not_open_http(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[monitor]\nbind = "0.0.0.0:9000"\n[security]\ncurve_dir = "keys"\n')
    with pytest.raises(ConfigError, match=r"monitor\.bind"):
        load_config(path)


@pytest.mark.parametrize(
    ("table", "line", "said"),
    [
        ("monitor", 'bind = "127.0.0.1:99999"', "monitor.bind: expected a port of 0 to 65535, found '127.0.0.1:99999'"),
        (
            "feed",
            'endpoint = "tcp://127.0.0.1:70000"',
            "feed.endpoint: expected a port of 0 to 65535, found 'tcp:..127.0.0.1:70000'",
        ),
        ("publish", 'events = "tcp://localhost:8760"', "feed.endpoint and publish.events.*give each its own"),
        ("monitor", 'bind = "127.0.0.1:8764"', "control.endpoint and monitor.bind.*give each its own"),
        ("publish", 'events = "ipc:///s"\nvolumes = "ipc:///s"', "publish.events and publish.volumes.*its own"),
    ],
)
def test_ports_that_cannot_be_bound_are_told_before_anything_starts(tmp_path, table, line, said):
    path = tmp_path / "config.toml"
    path.write_text(f"[{table}]\n{line}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_wildcard_takes_the_port_of_every_address_and_free_ports_and_other_hosts_are_no_matter():
    plain = {"security": {"allow_plaintext_on_network": True}}
    with pytest.raises(ValueError, match=r"publish\.events and publish\.volumes"):
        Config.model_validate(plain | {"publish": {"events": "tcp://0.0.0.0:9001", "volumes": "tcp://10.0.0.1:9001"}})
    Config.model_validate(plain | {"publish": {"events": "tcp://10.0.0.1:8760", "volumes": "tcp://127.0.0.1:0"}})
    Config.model_validate({"publish": {"events": "tcp://127.0.0.1:0", "volumes": "tcp://127.0.0.1:0"}})
