// One camera: the newest picture, how old it is, and what is drawn over it. An old picture turns grey and says so.

import { age, h, text } from "./dom.js";
import { Pulled, serverNow } from "./link.js";

export const STALE_MS = 500;
const HEADER_BYTES = 32;
const POLICY_PX = 224;

export class CameraView {
  constructor(name, { label = name } = {}) {
    this.name = name;
    this.captureMs = null;
    this.canvas = h("canvas", { class: "picture", width: 640, height: 360 });
    this.over = h("canvas", { width: 640, height: 360 });
    this.badge = h("span", { class: "age" }, "–");
    this.lost = h("div", { class: "lost", role: "status" });
    this.element = h(
      "div", { class: "camera stale", "data-camera": name },
      this.canvas, this.over, h("span", { class: "tag" }, label), this.badge, this.lost,
    );
    this.channel = new Pulled(`/ws/camera/${name}`, (data) => this.show(data));
    this.timer = setInterval(() => this.mark(), 100);
  }

  get ageMs() {
    const now = serverNow();
    return this.captureMs === null || now === null ? null : now - this.captureMs;
  }

  async show(data) {
    const view = new DataView(data);
    const width = view.getInt32(24, true), height = view.getInt32(28, true);
    const bitmap = await createImageBitmap(new Blob([data.slice(HEADER_BYTES)], { type: "image/jpeg" }));
    for (const canvas of [this.canvas, this.over]) {
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
    }
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    this.captureMs = Number(view.getBigInt64(8, true)) / 1000;
    this.onFrame?.(this.canvas);
    this.mark();
  }

  mark() {
    const old = this.ageMs;
    const stale = old === null || old > STALE_MS;
    this.element.classList.toggle("stale", stale);
    text(this.badge, old === null ? "no picture" : age(old));
    text(this.lost, !stale ? "" : this.captureMs === null ? "No picture yet" : `Old picture: ${age(old)}`);
  }

  // Vectors over what the policy looks at, [top, left, height, width] in shares of this picture, drawn where they belong.
  arrows(grid, region, color) {
    const context = this.over.getContext("2d");
    const { width, height } = this.over;
    context.clearRect(0, 0, width, height);
    if (!grid) return;
    const scale = (region[3] * width) / POLICY_PX;
    const left = region[1] * width, top = region[0] * height;
    const step = POLICY_PX / grid.length;
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = Math.max(1.5, width / 320);
    grid.forEach((row, y) => row.forEach(([dx, dy], x) => {
      const length = Math.hypot(dx, dy);
      if (length < 1.5) return;
      const fromX = left + (x + 0.5) * step * scale, fromY = top + (y + 0.5) * step * scale;
      const toX = fromX + dx * scale, toY = fromY + dy * scale;
      const angle = Math.atan2(dy, dx), tip = Math.min(7, 3 + length) * (width / 640);
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
      context.stroke();
      context.beginPath();
      context.moveTo(toX + tip * Math.cos(angle), toY + tip * Math.sin(angle));
      context.lineTo(toX + tip * Math.cos(angle + 2.4), toY + tip * Math.sin(angle + 2.4));
      context.lineTo(toX + tip * Math.cos(angle - 2.4), toY + tip * Math.sin(angle - 2.4));
      context.fill();
    }));
  }

  // Another picture laid over this one, to set up a scene as it was.
  reference(url) {
    this.element.querySelector(".reference")?.remove();
    if (!url) return null;
    const image = h("img", { class: "reference", src: url, alt: "the scene as it should look" });
    this.element.insertBefore(image, this.over);
    return image;
  }

  close() {
    this.channel.close();
    clearInterval(this.timer);
  }
}
