"use strict";
// Cases, gallery and enlarged view. Nothing is loaded; text from the data enters the page as text alone.
(() => {
  const PAGE = 24;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const pictures = byId("pictures").textContent.trim().split("\n");
  const compared = data.runs.length > 1;
  const SIDES = compared ? ["A", "B"] : [""], CASES = compared ? 3 : 4;

  // As utils/evaluation/report/gallery.py writes a row.
  const records = data.records.map((row, order) => {
    const [id, target, targets, picture, question, groups, share, size, truth, expected, results] = row;
    const runs = results.map((one) => {
      if (!one) return null;
      const [iou, score, kind, text, path] = one;
      return { iou, score, kind, text, path };
    });
    const both = compared && runs[0] && runs[1];
    return {
      order, id, target, targets, picture, question, groups, share, size, truth, expected, runs,
      step: both ? runs[1].iou - runs[0].iou : null,
      searched: [question, ...runs.map((run) => (run ? run.text : ""))].join("\n").toLowerCase(),
    };
  });

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function drawn(tag, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  /** A record's picture with the true mask and that of a run. */
  function overlay(record, run, label) {
    const [width, height] = data.pictures[record.picture];
    const svg = drawn("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const href = `data:image/jpeg;base64,${pictures[record.picture]}`;
    svg.append(drawn("image", { href, width, height, preserveAspectRatio: "none" }));
    if (record.truth) svg.append(drawn("path", { class: "annotated", d: record.truth }));
    if (run && run.path) svg.append(drawn("path", { class: "predicted", d: run.path }));
    return svg;
  }

  const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
  const signed = (value) => ({ "-1": "−", 0: "", 1: "+" })[Math.sign(Math.round(100 * value))] + Math.abs(value).toFixed(2);
  /** A text with each run of tokens such as [SEG0] [SEG1] … [SEG8] as its ends alone. */
  const shortened = (text) => text.replace(/(\[\w+?0\])(?:\s*\[\w+?[1-9]\d*\])*\s*(\[\w+?[1-9]\d*\])/g, "$1…$2");
  /** The words of an answer, without its tokens and tags. */
  const words = (text) => text.replace(/\[\w+\]|<\/?(?:think|answer)>/g, " ").replace(/\s+/g, " ").trim();
  const percent = (share) => (share === null ? "no target" : `${Number((100 * share).toPrecision(2))} %`);
  const kindName = (run) => data.kinds[run.kind][1].split(" (")[0];
  /** What went wrong, beyond what an IoU says; "" for a mask that overlaps its target. */
  const failure = (run) => (["poor", "good"].includes(data.kinds[run.kind][0]) ? "" : kindName(run));
  const groupValues = (record) => data.groups
    .map(([title, values], i) => [title, record.groups[i] < 0 ? null : values[record.groups[i]]])
    .filter(([, value]) => value !== null);

  function scoreLine(record) {
    const line = make("p", { class: "scored" });
    record.runs.forEach((run, i) => {
      const score = !run ? "–" : run.iou > 0 && run.iou < 0.005 ? "< 0.01" : number(run.iou);  // not missed
      line.append(make("span", {}, ...(compared ? [make("span", { class: `side s${i}` }, SIDES[i]), " "] : ["IoU "]),
        make("b", {}, score), ...(run && failure(run) ? [make("span", { class: "failure" }, failure(run))] : [])));
    });
    if (record.step !== null) line.append(make("span", {}, signed(record.step)));
    line.append(make("span", { class: "about" },
      [percent(record.share), ...groupValues(record).map(([title, value]) =>
        (Number.isNaN(Number(value)) ? value : `${title} ${value}`))].join(" · ")));
    return line;
  }

  function card(record, list) {
    const label = `Enlarge: ${record.question}`;
    const button = make("button", { type: "button", "aria-label": label });
    record.runs.forEach((run, i) => {
      button.append(overlay(record, run, run ? `${SIDES[i]} IoU ${number(run.iou)}`.trim() : "not scored"));
    });
    button.addEventListener("click", () => enlarge(list, list.indexOf(record)));
    const texts = compared ? [] : record.runs.map((run) => (run ? words(run.text) : "")).filter(Boolean);
    return make("li", { class: "card", "data-id": record.id }, button, scoreLine(record),
      make("p", { class: "question" }, record.question),
      ...texts.map((text) => make("p", { class: "answer" }, text)));
  }

  // ------------------------------------------------------------------------------------------------- gallery
  const form = byId("filters"), fields = form.elements;
  const iou = (record, run) => (record.runs[run] ? record.runs[run].iou : null);
  const confidence = (record, run) => (record.runs[run] ? record.runs[run].score : null);
  const SORTS = {
    order: ["data order", (record) => record.order, 1],
    worst: ["IoU, lowest first", iou, 1],
    best: ["IoU, highest first", iou, -1],
    small: ["size, smallest first", (record) => record.share, 1],
    large: ["size, largest first", (record) => record.share, -1],
    unsure: ["confidence, lowest first", confidence, 1],
    sure: ["confidence, highest first", confidence, -1],
    id: ["id", (record) => record.id, 1],
  };
  if (compared) {
    SORTS.gained = ["B − A, largest first", (record) => record.step, -1];
    SORTS.lost = ["B − A, smallest first", (record) => record.step, 1];
  }
  const collator = new Intl.Collator("en", { numeric: true });

  function choices(select, options, all) {
    if (all !== undefined) select.append(make("option", { value: "" }, all));
    for (const [value, label] of options) select.append(make("option", { value }, label));
  }

  function prepareForm() {
    const used = (values) => new Set(records.flatMap(values));
    const kinds = used((record) => record.runs.filter(Boolean).map((run) => run.kind));
    const sizes = used((record) => record.size);
    choices(fields.run, SIDES.map((side, i) => [i, `${side}: ${data.runs[i]}`]));
    choices(fields.kind, data.kinds.filter((_, i) => kinds.has(i)), "all");
    choices(fields.size, data.sizes.map((size, i) => [i, size]).filter(([i]) => sizes.has(i)), "all");
    data.groups.forEach(([title, values], i) => {
      if (values.length < 2) return;
      const select = make("select", { name: `group${i}` });
      const sorted = values.map((value, j) => [j, value]).sort((a, b) => collator.compare(a[1], b[1]));
      choices(select, sorted, "all");
      byId("groups").append(make("label", {}, title[0].toUpperCase() + title.slice(1), select));
    });
    choices(fields.sort, Object.entries(SORTS).map(([name, [label]]) => [name, label]));
  }

  function limit(field, otherwise) {
    const value = parseFloat(field.value);
    return Number.isNaN(value) ? otherwise : value;
  }

  function found() {
    const run = Number(fields.run.value) || 0, words = fields.text.value.trim().toLowerCase();
    const low = limit(fields.low, -1), high = limit(fields.high, 2), bounded = fields.low.value || fields.high.value;
    const groups = data.groups.map((_, i) => (fields[`group${i}`] ? fields[`group${i}`].value : ""));
    const kept = records.filter((record) => {
      const one = record.runs[run];
      return (!words || record.searched.includes(words))
        && (!fields.kind.value || (one && data.kinds[one.kind][0] === fields.kind.value))
        && (!fields.size.value || record.size === Number(fields.size.value))
        && groups.every((value, i) => !value || record.groups[i] === Number(value))
        && (!bounded || (one && one.iou >= low && one.iou <= high));
    });
    const [, key, sign] = SORTS[fields.sort.value] || SORTS.order;
    const keyed = kept.map((record) => [key(record, run), record]);
    keyed.sort(([a, one], [b, other]) => {
      if (a === null || b === null) return (a === null) - (b === null) || one.order - other.order;
      const before = typeof a === "string" ? collator.compare(a, b) : a - b;
      return sign * before || one.order - other.order;
    });
    return keyed.map(([, record]) => record);
  }

  let shown = [], page = 0;
  function show(which) {
    const pages = Math.max(Math.ceil(shown.length / PAGE), 1);
    page = Math.min(Math.max(which, 0), pages - 1);
    const first = page * PAGE, visible = shown.slice(first, first + PAGE);
    byId("cards").replaceChildren(...visible.map((record) => card(record, shown)));
    byId("count").textContent = shown.length === records.length
      ? `${records.length.toLocaleString("en")} masks`
      : `${shown.length.toLocaleString("en")} of ${records.length.toLocaleString("en")} masks`;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  function refresh() {
    shown = found();
    show(0);
  }

  /** The filters as the address has them after #, so that a filtered gallery can be linked to. */
  function readAddress() {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return;
    form.reset();
    for (const [name, value] of new URLSearchParams(hash)) if (fields[name]) fields[name].value = value;
    refresh();
    byId("gallery").scrollIntoView();
  }

  function turn(step) {
    show(page + step);
    byId("count").scrollIntoView({ block: "start" });
  }

  // ----------------------------------------------------------------------------------------------- enlarged
  const dialog = byId("enlarged");
  let opened = [], position = 0;

  function enlarge(list, index) {
    opened = list;
    if (!dialog.open) dialog.showModal();
    move(index);
  }

  function move(index) {
    if (index < 0 || index >= opened.length) return;
    position = index;
    const record = opened[index];
    byId("position").textContent = `${(index + 1).toLocaleString("en")} of ${opened.length.toLocaleString("en")}`;
    byId("back").disabled = index === 0;
    byId("forth").disabled = index === opened.length - 1;
    byId("enlarged-pictures").replaceChildren(...record.runs.map((run, i) => make("figure", {},
      overlay(record, run, run ? `IoU ${number(run.iou)}` : "not scored"),
      make("figcaption", {}, caption(run, i)))));
    byId("enlarged-question").textContent = record.question;
    const answers = record.runs.map((run, i) => [compared ? `answer ${SIDES[i]}` : "answer", run ? run.text : ""]);
    if (record.expected) answers.push(["annotated", record.expected]);
    byId("enlarged-answers").replaceChildren(...answers.filter(([, text]) => text).map(([who, text]) =>
      make("p", {}, make("span", { class: "who" }, who), shortened(text))));
    const facts = [["id", record.id], ["size", percent(record.share)], ...groupValues(record)];
    if (record.targets > 1) facts.push(["target", record.target === null ? "none" : `${record.target + 1} of ${record.targets}`]);
    if (record.step !== null) facts.push(["B − A", signed(record.step)]);
    byId("enlarged-facts").replaceChildren(...facts.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
    dialog.scrollTop = 0;
  }

  function caption(run, i) {
    const side = compared ? `${SIDES[i]}: ` : "";
    if (!run) return `${side}not scored`;
    return `${side}IoU ${number(run.iou, 3)}, ${kindName(run)}, confidence ${number(run.score)}`;
  }

  function toggles() {
    for (const which of ["predicted", "annotated"]) {
      byId("enlarged-pictures").classList.toggle(`hide-${which}`, !byId(`show-${which}`).checked);
    }
  }

  // -------------------------------------------------------------------------------------------------- cases
  function cases() {
    const mean = (record) => {
      const ious = record.runs.filter(Boolean).map((run) => run.iou);
      return ious.reduce((sum, one) => sum + one, 0) / ious.length;
    };
    const targets = records.filter((record) => record.target !== null);
    // Of equally bad ones the larger targets tell more, as they were easier to see.
    const sorted = targets.map((record) => [mean(record), record])
      .sort(([a, one], [b, other]) => a - b || other.share - one.share).map(([, record]) => record);
    const middle = Math.max(Math.floor((sorted.length - CASES) / 2), 0);
    const both = compared ? " of both" : "";
    const rows = [
      [`Worst${both}`, sorted.slice(0, CASES)],
      [`Median${both}`, sorted.slice(middle, middle + CASES)],
      [`Best${both}`, sorted.slice(-CASES).reverse()],
    ];
    if (compared) {
      const stepped = targets.filter((record) => record.step !== null).sort((a, b) => b.step - a.step);
      rows.unshift(["B better than A", stepped.filter((record) => record.step > 0).slice(0, CASES)],
        ["A better than B", stepped.filter((record) => record.step < 0).slice(-CASES).reverse()]);
    }
    for (const [title, list] of rows) {
      if (!list.length) continue;
      byId("case-rows").append(make("h3", {}, title), make("ul", { class: "cards" }, ...list.map((one) => card(one, list))));
    }
  }

  // ------------------------------------------------------------------------------------------------- start
  document.body.classList.toggle("compared", compared);
  prepareForm();
  cases();
  refresh();
  readAddress();
  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 120);
  });
  form.addEventListener("reset", () => setTimeout(refresh));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", readAddress);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("back").addEventListener("click", () => move(position - 1));
  byId("forth").addEventListener("click", () => move(position + 1));
  byId("close").addEventListener("click", () => dialog.close());
  byId("show-predicted").addEventListener("change", toggles);
  byId("show-annotated").addEventListener("change", toggles);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    move(position + step);
  });
})();
