"use strict";
parent.postMessage({ type: "failed", reason: "The 3D viewer is not installed: pip install 'streamrecon[page]'. The slices show the map." }, "*");
