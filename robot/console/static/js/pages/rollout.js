// A policy on the rig: start it, watch it, pause it, let it go step by step.

import { ArmView } from "../arm.js";
import { CameraView } from "../camera.js";
import { card, field, h, segments, text } from "../dom.js";
import { Events, FlowPanel, Health, Outcome, taskField } from "../panels.js";
import { ChunkTimeline, JointStrips, TimingStrip } from "../plots.js";

export class RolloutPage {
  constructor({ store, about, operator }) {
    Object.assign(this, { store, about, operator });
    this.cameras = [new CameraView("exterior", { label: "Exterior" }), new CameraView("wrist", { label: "Wrist" })];
    this.arm = new ArmView(store);
    this.timeline = new ChunkTimeline(store);
    this.joints = new JointStrips(store);
    this.timing = new TimingStrip(store, 1000 / about.control_rate_hz);
    this.health = new Health(store);
    this.events = new Events(store);
    this.flow = new FlowPanel({ onArrows: (grid, region, color) => this.cameras[0].arrows(this.moves() ? grid : null, region, color) });
    this.outcome = new Outcome();
    const strips = card("Joints and gripper", this.joints.element);
    strips.querySelector("header").append(h("div", { class: "legend row small muted" },
      h("span", {}, h("i", { style: "background: var(--requested)" }), "requested"),
      h("span", {}, h("i", { style: "background: var(--sent)" }), "sent"),
      h("span", {}, h("i", { style: "background: var(--measured)" }), "measured")));
    this.element = h("div", { class: "stack" },
      h("div", { class: "grid cols-3" }, ...this.cameras.map((camera) => camera.element), this.arm.element),
      h("div", { class: "grid split" },
        h("div", { class: "stack" }, this.flow.element, card("Chunks", this.timeline.element), strips, card("Timing", this.timing.element)),
        h("div", { class: "stack" }, this.controls(), this.health.element, this.events.element)));
  }

  controls() {
    this.task = taskField(this.about);
    this.server = h("input", { value: this.about.server, spellcheck: "false", class: "mono" });
    this.mode = segments([["async", "Async"], ["sync", "Sync"]], "async");
    this.episodes = h("input", { type: "number", min: "1", max: "1000", value: "1" });
    this.seed = h("input", { type: "number", min: "0", value: "0" });
    this.speed = h("input", { type: "range", min: "10", max: "100", step: "5", value: "100", oninput: () => text(this.speedShown, `Speed ${this.speed.value} %`) });
    this.speedShown = h("span", {}, "Speed 100 %");
    this.motion = h("input", { type: "checkbox" });
    this.paused = h("input", { type: "checkbox" });
    this.startButton = h("button", { class: "main big", type: "button", "data-action": "start", onclick: () => this.start() }, "Start");
    this.form = h("div", { class: "fields" },
      this.task.element,
      field("Policy server", this.server, true),
      field("Episodes", this.episodes), field("First scene", this.seed),
      h("label", { class: "field whole" }, this.speedShown, this.speed),
      h("div", { class: "whole row" }, this.mode, h("label", { class: "check" }, this.paused, "Step by step")),
      h("label", { class: "check whole" }, this.motion, "Show predicted motion"),
      h("div", { class: "whole row" }, this.startButton));
    this.phase = h("div", { class: "figure" });
    this.told = h("div", { class: "muted" });
    const pace = (name, label) => h("button", { type: "button", "data-pace": name, onclick: () => this.outcome.show(this.operator.command({ command: "pace", pace: name })) }, label);
    this.pace = { pause: pace("pause", "Pause"), go: pace("go", "Go on"), step: pace("step", "One chunk") };
    this.endButton = h("button", { type: "button", "data-action": "end", onclick: () => this.end() }, "End");
    this.running = h("div", { class: "stack", hidden: true }, this.phase, this.told,
      h("div", { class: "row" }, ...Object.values(this.pace), this.endButton));
    return card("Rollout", this.form, this.running, this.outcome.element);
  }

  moves() {
    return Boolean(this.store.now?.rollout);
  }

  start() {
    this.outcome.show(this.operator.command({
      command: "start_rollout", task: this.task.select.value, server: this.server.value, mode: this.mode.value,
      episodes: Number(this.episodes.value), seed: Number(this.seed.value), speed: Number(this.speed.value) / 100,
      motion: this.motion.checked, paused: this.paused.checked,
    }));
  }

  end() {
    const job = this.store.now?.jobs.evaluate?.running ? "evaluate" : "rollout";
    this.outcome.show(this.operator.command({ command: "stop_job", job }));
  }

  update() {
    const { now } = this.store;
    if (!now) return;
    const { rollout } = now, job = now.jobs.rollout;
    const busy = Boolean(rollout) || Boolean(job?.running);
    this.form.hidden = busy;
    this.running.hidden = !busy;
    this.startButton.disabled = !this.operator.operates || Boolean(now.moving);
    this.endButton.disabled = !this.operator.operates;
    const tick = this.store.ticks.rows.at(-1)?.[1];
    if (busy) {
      const phase = job?.stopping ? "ending" : rollout?.phase ?? "starting";
      const paused = tick?.paused && phase === "running";
      text(this.phase, paused ? "paused" : phase);
      const policy = rollout?.policy;
      text(this.told, rollout?.total
        ? `Episode ${rollout.number ?? "–"} of ${rollout.total} · ${rollout.prompt ?? ""} · ${policy ? policy.name + (policy.trained ? "" : " (RANDOM WEIGHTS)") : "blind trial"} · ${rollout.mode}${rollout.speed < 1 ? ` at ${Math.round(rollout.speed * 100)} % speed` : ""}${job?.running ? "" : ` · started elsewhere, process ${rollout.pid}`}`
        : "bringing up the rig");
      this.pace.pause.disabled = !this.operator.operates || !rollout || paused;
      this.pace.go.disabled = this.pace.step.disabled = !this.operator.operates || !paused;
    } else if (job && job.exit_code && job.exit_code !== 130 && this.toldExit !== job.pid) {
      this.toldExit = job.pid;
      this.outcome.show(Promise.resolve({ ok: false, detail: job.last_line }));
    }
    if (!rollout) this.cameras[0].arrows(null);
    for (const part of [this.timeline, this.joints, this.timing, this.health, this.events]) part.draw();
  }

  close() {
    for (const part of [...this.cameras, this.arm, this.flow]) part.close();
  }
}
