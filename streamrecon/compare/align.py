"""Aligning maps, under the name that programs know it by; see `streamrecon.assess.align`."""

from streamrecon.assess.align import Alignment, FscCurve, align_volumes, fsc_between, search_size

__all__ = ["Alignment", "FscCurve", "align_volumes", "fsc_between", "search_size"]
