// Of the board: fades, hides and shows masks without asking the server; `element`, `trigger`, `watch` are Gradio's.
const shown = { opacity: 50, hidden: new Set(), answers: 0 };

function apply() {
  element.style.setProperty("--pix-opacity", shown.opacity / 100);
  const slider = element.querySelector(".pix-opacity input");
  if (slider) slider.value = shown.opacity;
  for (const layer of element.querySelectorAll(".pix-layer")) {
    layer.style.display = shown.hidden.has(layer.dataset.answer) ? "none" : "";
  }
  for (const eye of element.querySelectorAll(".pix-eye")) {
    eye.setAttribute("aria-pressed", !shown.hidden.has(eye.dataset.answer));
  }
}

function arrived() {
  apply();
  const answers = element.querySelectorAll(".pix-legend > li").length;
  // on a phone the picture lies below the question
  if (answers > shown.answers && window.innerWidth < 700) element.scrollIntoView({ behavior: "smooth", block: "start" });
  shown.answers = answers;
}

element.addEventListener("input", (event) => {
  if (event.target.closest(".pix-opacity")) {
    shown.opacity = Number(event.target.value);
    apply();
  }
});

element.addEventListener("click", (event) => {
  const eye = event.target.closest(".pix-eye");
  if (eye) {
    if (!shown.hidden.delete(eye.dataset.answer)) shown.hidden.add(eye.dataset.answer);
    apply();
  }
  const remove = event.target.closest("[data-remove]");
  if (remove) trigger("click", { remove: remove.dataset.remove });
});

watch("value", arrived);
apply();
