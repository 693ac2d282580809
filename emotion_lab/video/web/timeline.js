"use strict";
// The probabilities of the chosen face over the last seconds, its label as a strip below them.

let points = []; // {t, faces: Map(id -> {label, smoothed})}, by time

function remember(data) {
  if (!data.row || data.stills) return;
  const t = data.row.time_s;
  const last = points.length ? points[points.length - 1].t : -1;
  if (t < last) points = [];
  if (t === last) return;
  const faces = new Map();
  for (const face of data.row.faces) {
    const smoothed = about.classes.map((name) => face.smoothed[name]);
    faces.set(face.id, { label: index(face.label), smoothed });
  }
  points.push({ t, faces });
  while (points[0].t < t - about.timeline_s - 1) points.shift();
}

function chart() {
  const canvas = $("timeline");
  if (!about || !canvas.clientWidth) return;
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const [left, right, top, strip] = [48, width - 10, 10, 14];
  const bottom = height - 22 - strip;
  const end = points.length ? points[points.length - 1].t : 0;
  const x = (t) => right - ((end - t) / about.timeline_s) * (right - left);
  const y = (share) => bottom - share * (bottom - top);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = "#c3c9cf";
  pen.strokeStyle = "#3a4047";
  pen.lineWidth = 1;
  pen.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    pen.fillText(percent(share), left - 5, y(share) + 4);
    pen.beginPath();
    pen.moveTo(left, y(share));
    pen.lineTo(right, y(share));
    pen.stroke();
  }
  pen.fillText("now", right, height - 5);
  pen.textAlign = "left";
  pen.fillText(`${about.timeline_s.toFixed(0)} s ago`, left, height - 5);
  const faces = latest && latest.row ? latest.row.faces : [];
  const id = picked(faces) ?? chosen;
  put("time-title", id === null ? "Timeline" : `Timeline of face ${id}`);
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, right - left, height);
  pen.clip();
  about.classes.forEach((_, k) => line(pen, id, k, x, y));
  points.forEach((point, n) => {
    const face = point.faces.get(id);
    if (!face) return;
    const next = n + 1 < points.length ? Math.min(points[n + 1].t, point.t + 1) : point.t;
    pen.fillStyle = colour(face.label);
    pen.fillRect(x(point.t), bottom + 4, x(next) - x(point.t) + 0.7, strip - 2);
  });
  pen.restore();
}

function line(pen, id, k, x, y) {
  pen.strokeStyle = about.colours[k];
  pen.lineWidth = 2;
  pen.beginPath();
  let before = null;
  for (const point of points) {
    const face = point.faces.get(id);
    if (!face) before = null;
    else {
      const joined = before !== null && point.t - before <= 1;
      pen[joined ? "lineTo" : "moveTo"](x(point.t), y(face.smoothed[k]));
      before = point.t;
    }
  }
  pen.stroke();
}
