// Mol* in a document that can reach nothing: maps come as messages from the page, and replace one another in place, so that
// the camera stays where a person put it.
"use strict";
const say = (message) => parent.postMessage(message, "*");
const DOWNLOAD = "ms-plugin.download";
const SURFACE = "ms-plugin.volume-representation-3d";
const FILLED = 0.6; // the particle's share of the sphere around the box, roughly: what the camera looks at
let viewer = null;
let queue = Promise.resolve();

async function start() {
  viewer = await molstar.Viewer.create("scene", {
    layoutIsExpanded: false, layoutShowControls: false, layoutShowRemoteState: false, layoutShowSequence: false,
    layoutShowLog: false, layoutShowLeftPanel: false, viewportShowExpand: false, viewportShowSelectionMode: false,
    viewportShowAnimation: false, viewportShowControls: false, viewportShowSettings: false,
  });
  if (!viewer.plugin.canvas3d) throw new Error("no WebGL");
  viewer.plugin.canvas3d.setProps({ camera: { helper: { axes: { name: "off", params: {} } } } });
  say({ type: "ready" });
}

const tree = () => viewer.plugin.state.data;
const node = (id) => [...tree().cells.values()].find((cell) => cell.transform.transformer.id === id);
const change = (build) => viewer.plugin.runTask(tree().updateTree(build, { doNotLogTiming: true, doNotUpdateCurrent: true }));

async function showMap({ key, bytes, level, color, background }) {
  const url = URL.createObjectURL(new Blob([bytes]));
  try {
    const before = node(DOWNLOAD);
    if (before) {
      await change(tree().build().to(before.transform.ref).update({ ...before.transform.params, url }));
    } else {
      setBackground(background);
      await viewer.loadVolumeFromUrl({ url, format: "ccp4", isBinary: true }, [{ type: "relative", value: level, color, alpha: 1 }]);
      lookAt();
    }
  } finally {
    URL.revokeObjectURL(url);
  }
  say({ type: "shown", key });
}

async function setSurface(level, color) {
  const cell = node(SURFACE);
  if (!cell) return;
  const { type, colorTheme, ...rest } = cell.transform.params;
  const isoValue = { kind: "relative", relativeValue: level };
  const theme = color === undefined ? colorTheme : { ...colorTheme, params: { ...colorTheme.params, value: color } };
  await change(tree().build().to(cell.transform.ref).update({ ...rest, colorTheme: theme, type: { ...type, params: { ...type.params, isoValue } } }));
}

function lookAt() {
  const snapshot = ({ boundingSphere: { center, radius } }, camera) => camera.getFocus(center, FILLED * radius);
  viewer.plugin.canvas3d.requestCameraReset({ durationMs: 0, snapshot });
}

function setBackground(background) {
  viewer.plugin.canvas3d.setProps({ renderer: { backgroundColor: background } });
}

async function handle(message) {
  if (message.type === "map") await showMap(message);
  if (message.type === "level") await setSurface(message.level);
  if (message.type === "look") {
    setBackground(message.background);
    await setSurface(message.level, message.color);
  }
  if (message.type === "reset") lookAt();
}

let level = null;
addEventListener("message", (event) => {
  if (event.source !== parent || !viewer) return;
  // of a slider's many values only the last one waiting counts
  if (event.data.type === "level") level = event.data;
  const message = event.data;
  queue = queue.then(() => (message.type === "level" && message !== level ? null : handle(message)))
    .catch((error) => say({ type: "failed", reason: `The map could not be shown: ${error.message}` }));
});

// without it nothing is said: whoever waits for a word asks for all of this again
if (typeof molstar !== "undefined") {
  say({ type: "alive" });
  start().catch(() => say({ type: "failed", reason: "This browser shows no 3D (WebGL). The slices show the map." }));
}
