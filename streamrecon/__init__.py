"""Streaming online 3D reconstruction for cryo-electron microscopy."""

__version__ = "0.1.0"
