"""config.toml as typed, frozen models; every error is reported at once."""

from streamrecon.config.load import load_config
from streamrecon.config.model import Config

__all__ = ["Config", "load_config"]
