"""``python -m streamrecon``."""

from streamrecon.cli.main import app

app()
