"""Virtual sessions: a specimen, a microscope, and files that appear as in a real one."""

from streamrecon.simulate.microscope import Micrograph, Microscope, MicroscopeSettings
from streamrecon.simulate.projection import Projector
from streamrecon.simulate.specimen import density_from_map, density_from_model
from streamrecon.simulate.writer import SessionWriter

__all__ = [
    "Micrograph",
    "Microscope",
    "MicroscopeSettings",
    "Projector",
    "SessionWriter",
    "density_from_map",
    "density_from_model",
]
