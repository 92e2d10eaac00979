"""The results of postprocessing as RELION's postprocess.star has them, for those who read that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.half_maps import HalfMapAssessment
from streamrecon.io.atomic import atomic_path
from streamrecon.io.star_write import loop_heading, open_star, quoted

_FSC_COLUMNS = (
    "rlnSpectralIndex",
    "rlnResolution",
    "rlnAngstromResolution",
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelationUnmaskedMaps",
    "rlnFourierShellCorrelationMaskedMaps",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
)
_GUINIER_COLUMNS = (
    "rlnResolutionSquared",
    "rlnLogAmplitudesOriginal",
    "rlnLogAmplitudesWeighted",
    "rlnLogAmplitudesSharpened",
)
# what RELION writes for "infinite" and for the logarithm of nothing
_FAR_ANGSTROM = 999.0
_LOG_OF_NOTHING = -99.0


def write_postprocess_star(
    path: Path | str, found: HalfMapAssessment, half_names: tuple[str, str], mask_name: str
) -> None:
    """Write data_general, data_fsc and data_guinier, atomically.

    Parameters
    ----------
    path : Path or str
    found : HalfMapAssessment
    half_names, mask_name : str
        As they are to stand in the file.
    """
    curves, sharpened = found.curves, found.sharpened
    length = curves.box_size * curves.voxel_size_angstrom
    general: dict[str, str] = {
        "rlnFinalResolution": f"{curves.shell_resolution_angstrom:.6f}",
        "rlnBfactorUsedForSharpening": f"{sharpened.b_factor_angstrom2:.6f}",
        "rlnUnfilteredMapHalf1": quoted(half_names[0]),
        "rlnUnfilteredMapHalf2": quoted(half_names[1]),
        "rlnMaskName": quoted(mask_name),
        "rlnRandomiseFrom": f"{length / curves.randomised_from:.6f}",
    }
    if sharpened.fit is not None:
        general |= {
            "rlnFittedSlopeGuinierPlot": f"{sharpened.fit.b_factor_angstrom2 / 4:.6f}",
            "rlnFittedInterceptGuinierPlot": f"{sharpened.fit.intercept:.6f}",
            "rlnCorrelationFitGuinierPlot": f"{sharpened.fit.correlation:.6f}",
        }
    shells = np.arange(len(curves.corrected))
    resolution = np.divide(length, shells, out=np.full(len(shells), _FAR_ANGSTROM), where=shells > 0)
    columns = (curves.corrected, curves.unmasked, curves.masked, curves.randomised)
    with atomic_path(path) as temporary, open_star(temporary) as file:
        file.write("\n# version 30001\n\ndata_general\n\n")
        file.writelines(f"_{name:<45} {value}\n" for name, value in general.items())
        file.write("\n\n# version 30001\n" + loop_heading("fsc", _FSC_COLUMNS))
        for i in shells:
            values = " ".join(f"{column[i]:12.6f}" for column in columns)
            file.write(f"{i:6d} {1 / resolution[i]:12.6f} {resolution[i]:12.6f} {values}\n")
        file.write("\n\n# version 30001\n" + loop_heading("guinier", _GUINIER_COLUMNS))
        logs = [_logs(a) for a in (sharpened.amplitude, sharpened.weighted, sharpened.sharpened)]
        for i in shells:
            values = " ".join(f"{log[i]:12.6f}" for log in logs)
            file.write(f"{(i / length) ** 2:12.6f} {values}\n")
        file.write("\n")


def _logs(amplitude: NDArray[np.floating]) -> NDArray[np.float64]:
    held = np.asarray(amplitude) > 0
    return np.where(held, np.log(np.where(held, amplitude, 1.0)), _LOG_OF_NOTHING)
