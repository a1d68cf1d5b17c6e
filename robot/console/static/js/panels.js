// Panels that several pages show: health, events, flow pictures.

import { age, card, cssColor, Facts, field, h, number, replace, text } from "./dom.js";
import { Channel, serverNow } from "./link.js";
import { FigureStrip } from "./plots.js";

const STATES = { READY: "ok", STREAMING: "busy", MOVING: "busy", ENABLING: "busy", HOLDING: "warn", DISABLED: "warn", DISCONNECTED: "bad", FAULT: "bad" };

export function stateLook(robot) {
  if (!robot?.state) return ["plain", "robotd is not running"];
  return [STATES[robot.state] ?? "plain", robot.state.charAt(0) + robot.state.slice(1).toLowerCase()];
}

export class Health {
  constructor(store) {
    this.store = store;
    this.facts = new Facts([
      "Arm", "Control lease", "Feedback", "Control period", "Round trip", "Picture → action", "Missed ticks", "Servo missed", "Gripper", "Recorder", "Free disk",
    ]);
    this.element = card("Health", this.facts.element);
  }

  draw() {
    const { now, ticks, chunks } = this.store;
    if (!now) return;
    const { robot } = now;
    const facts = this.facts;
    const [look, word] = stateLook(robot);
    facts.set("Arm", word, look === "bad" ? "bad-text" : look === "warn" ? "warn-text" : "");
    facts.set("Control lease", robot.lease ? robot.lease.name : "free");
    facts.set("Feedback", now.state ? age(now.state.age_ms) : "–", now.state && now.state.age_ms < 100 ? "" : "warn-text");
    const recent = ticks.rows.slice(-40).map((row) => row[1]);
    const periods = recent.slice(1).map((tick, i) => (tick.wake_ms - recent[i].wake_ms) / Math.max(1, tick.tick - recent[i].tick));
    facts.set("Control period", periods.length ? `${number(periods.reduce((a, b) => a + b) / periods.length, 2)} ms` : "–");
    const newest = [...chunks.values()].at(-1);
    facts.set("Round trip", newest ? number(newest.round_trip_ms, 0, "ms") : "–");
    facts.set("Picture → action", newest ? number(newest.age_ms, 0, "ms") : "–");
    const last = recent.at(-1);
    facts.set("Missed ticks", last ? String(last.missed) : "–", last?.missed ? "warn-text" : "");
    facts.set("Servo missed", now.state ? String(now.state.servo_missed) : "–");
    facts.set("Gripper", robot.gripper ? robot.gripper.status.toLowerCase() : "–", robot.gripper?.problem ? "bad-text" : "");
    facts.set("Recorder", now.recorder ? "running" : "off");
    facts.set("Free disk", `${number(now.disk.free_gib, 0)} GiB`, now.disk.free_gib < 5 ? "bad-text" : "");
  }
}

export class Events {
  constructor(store) {
    this.store = store;
    this.list = h("div", { class: "log", tabindex: "0", "aria-label": "events" });
    this.element = card("Events", this.list);
  }

  draw() {
    const { now } = this.store;
    if (!now) return;
    const events = (now.robot.events ?? []).map((event) => ({ t: event.t_ns / 1e6, text: `${event.name}${event.detail ? `: ${event.detail}` : ""}` }));
    for (const notice of now.notices) events.push({ t: notice.t_ms, text: notice.text });
    const key = events.map((event) => event.t).join();
    if (key === this.key && performance.now() - this.drawnMs < 1000) return;
    this.key = key;
    this.drawnMs = performance.now();
    events.sort((a, b) => b.t - a.t);
    replace(this.list, events.length
      ? events.slice(0, 25).map((event) => h("div", {}, h("time", {}, `${age(now.t_ms - event.t)}`), h("span", {}, event.text)))
      : h("span", { class: "muted" }, "Nothing yet."));
  }
}

// Predicted motion beside the motion that then happened, over the last minute.
export class FlowPanel {
  constructor({ onArrows = () => {} } = {}) {
    this.entries = [];
    this.last = 0;
    this.follow = true;
    this.onArrows = onArrows;
    this.canvases = ["Seen", "Predicted", "Happened", "Difference"].map((name) => {
      const canvas = h("canvas", { width: 224, height: 224 });
      const note = h("span", {});
      return { name, canvas, note, element: h("figure", {}, canvas, h("figcaption", {}, h("strong", {}, name), note)) };
    });
    this.scrubber = h("input", { type: "range", min: "0", max: "0", value: "0", "aria-label": "which comparison", oninput: () => {
      this.follow = Number(this.scrubber.value) === this.entries.length - 1;
      this.draw();
    } });
    this.arrowsShown = h("input", { type: "checkbox", checked: true, onchange: () => this.draw() });
    this.angle = new FigureStrip("Angle between predicted and happened", "°");
    this.error = new FigureStrip("End-point error", "px");
    this.when = h("span", { class: "muted small" });
    this.element = card(
      "Motion: predicted and happened",
      h("div", { class: "flow-pictures" }, ...this.canvases.map((one) => one.element)),
      h("div", { class: "row", style: "margin: 0.7rem 0 0.4rem; flex-wrap: nowrap" },
        h("img", { class: "wheel", src: "/api/wheel.png", alt: "colour wheel: the direction of motion" }),
        h("div", { class: "grow stack", style: "gap: 0.3rem" },
          h("div", { class: "row" }, h("label", { class: "check" }, this.arrowsShown, "Arrows over the camera"), this.when),
          this.scrubber)),
      h("div", { class: "grid cols-2" }, this.angle.element, this.error.element),
    );
    this.element.querySelector("header").append(h("span", { class: "muted small" }, "hue: direction · saturation: how far in one second"));
    this.element.hidden = true;
    this.channel = new Channel("/ws/flow", {
      open: (channel) => channel.send(String(this.last)),
      message: async (data, channel) => {
        await this.take(data);
        channel.send(String(this.last));
      },
    });
  }

  async take(data) {
    const length = new DataView(data).getUint32(0, true);
    const told = JSON.parse(new TextDecoder().decode(data.slice(4, 4 + length)));
    told.bitmap = await createImageBitmap(new Blob([data.slice(4 + length)], { type: "image/jpeg" }));
    this.last = told.number;
    const same = this.entries.findIndex((entry) => entry.observation_ms === told.observation_ms);
    if (same >= 0) {
      this.entries[same].bitmap.close();
      this.entries[same] = told;
    } else this.entries.push(told);
    while (this.entries.length > 150) this.entries.shift().bitmap.close();
    this.element.hidden = false;
    this.scrubber.max = String(this.entries.length - 1);
    // By itself the panel shows the newest comparison that is complete.
    if (this.follow) this.scrubber.value = String(this.complete());
    this.draw();
  }

  complete() {
    for (let i = this.entries.length - 1; i >= 0; i--) if (this.entries[i].has_measured) return i;
    return this.entries.length - 1;
  }

  draw() {
    const index = Number(this.scrubber.value);
    const shown = this.entries[index];
    if (!shown) return;
    this.canvases.forEach(({ canvas }, place) => {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, 224, 224);
      if (place < 2 || shown.has_measured) context.drawImage(shown.bitmap, place * 224, 0, 224, 224, 0, 0, 224, 224);
    });
    this.element.dataset.observation = String(shown.observation_ms);
    const notes = [
      "", shown.scale_px === null ? "" : `full ${number(shown.scale_px, 0)} px`,
      shown.has_measured ? `full ${number(shown.measured_scale_px, 0)} px` : "in a second",
      shown.has_measured ? `${number(shown.angle_deg, 0)}°${shown.endpoint_px === null ? "" : ` · ${number(shown.endpoint_px, 1)} px`}` : "",
    ];
    this.canvases.forEach((one, i) => text(one.note, notes[i]));
    const now = serverNow();
    text(this.when, `${index + 1} of ${this.entries.length}${now ? ` · ${age(now - shown.observation_ms)} ago` : ""} · drawn ${number(shown.image_delay_ms, 0)} ms after the request`);
    this.angle.draw(this.entries.map((entry) => entry.angle_deg), index);
    this.error.draw(this.entries.map((entry) => entry.endpoint_px), index);
    const newest = this.entries.at(-1);
    this.onArrows(this.arrowsShown.checked ? newest.predicted_arrows : null, newest.region, cssColor("--requested"));
  }

  close() {
    this.channel.close();
    for (const entry of this.entries) entry.bitmap.close();
  }
}

// What a command brought, shown for a while.
export class Outcome {
  constructor() {
    this.element = h("div", { class: "small", role: "status", style: "min-height: 1.3rem" });
  }

  async show(promise) {
    const result = await promise;
    this.element.className = `small ${result.ok ? "muted" : "bad-text"}`;
    text(this.element, result.detail ?? "");
    return result;
  }
}

export function taskField(about, onChange = () => {}) {
  const select = h("select", { onchange: () => onChange(select.value) },
    ...about.tasks.map((task) => h("option", { value: task.name }, `${task.name} – ${task.prompt}`)));
  return { select, element: field("Task", select, true) };
}

