"""The pose posterior of an image: global search, draws, adaptive importance sampling."""
