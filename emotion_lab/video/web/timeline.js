"use strict";
// Probabilities of the selected face over the last seconds, with its label as a strip below.

let points = []; // {t, faces: Map(id -> {label, smoothed})}, sorted by time in seconds

function addToTimeline(data) {
  if (!data.row || data.stills) return;
  const t = data.row.time_s;
  const last = points.length ? points[points.length - 1].t : -1;
  if (t < last) points = [];
  if (t === last) return;
  const faces = new Map();
  for (const face of data.row.faces) {
    const smoothed = about.classes.map((name) => face.smoothed[name]);
    faces.set(face.id, { label: classIndex(face.label), smoothed });
  }
  points.push({ t, faces });
  while (points[0].t < t - about.timeline_s - 1) points.shift();
}

function drawTimeline() {
  const canvas = $("timeline");
  if (!about || !canvas.clientWidth) return;
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const [left, right, top, stripHeight] = [48, width - 10, 10, 14];
  const bottom = height - 22 - stripHeight;
  const now = points.length ? points[points.length - 1].t : 0;
  const x = (t) => right - ((now - t) / about.timeline_s) * (right - left);
  const y = (share) => bottom - share * (bottom - top);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = "#c3c9cf";
  context.strokeStyle = "#3a4047";
  context.lineWidth = 1;
  context.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    context.fillText(percent(share), left - 5, y(share) + 4);
    context.beginPath();
    context.moveTo(left, y(share));
    context.lineTo(right, y(share));
    context.stroke();
  }
  context.fillText("now", right, height - 5);
  context.textAlign = "left";
  context.fillText(`${about.timeline_s.toFixed(0)} s ago`, left, height - 5);
  const id = selectedId(latest && latest.row ? latest.row.faces : []) ?? selected;
  setText("time-title", id === null ? "Timeline" : `Timeline of face ${id}`);
  context.save();
  context.beginPath();
  context.rect(left, 0, right - left, height);
  context.clip();
  about.classes.forEach((_, k) => drawLine(context, id, k, x, y));
  points.forEach((point, n) => {
    const face = point.faces.get(id);
    if (!face) return;
    const end = n + 1 < points.length ? Math.min(points[n + 1].t, point.t + 1) : point.t;
    context.fillStyle = classColour(face.label);
    context.fillRect(x(point.t), bottom + 4, x(end) - x(point.t) + 0.7, stripHeight - 2);
  });
  context.restore();
}

function drawLine(context, id, k, x, y) {
  context.strokeStyle = about.colours[k];
  context.lineWidth = 2;
  context.beginPath();
  let previous = null; // time of the previous point, null after an absence
  for (const point of points) {
    const face = point.faces.get(id);
    if (!face) {
      previous = null;
      continue;
    }
    const connected = previous !== null && point.t - previous <= 1;
    context[connected ? "lineTo" : "moveTo"](x(point.t), y(face.smoothed[k]));
    previous = point.t;
  }
  context.stroke();
}
