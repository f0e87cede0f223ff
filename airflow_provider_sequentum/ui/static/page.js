"use strict";
// Everything here is also on the page without it: a script refreshes the page, asks before an action and sends it.
const outer = parent.document;

function followTheme() {
  const root = document.documentElement;
  const theme = outer.documentElement;
  const isDark = theme === root ? matchMedia("(prefers-color-scheme: dark)").matches : theme.classList.contains("dark");
  root.classList.toggle("dark", isDark);
}
followTheme();
if (outer !== document) {
  new MutationObserver(followTheme).observe(outer.documentElement, {attributeFilter: ["class"]});
}

let refreshedAt = new Date();

async function latest() {
  try {
    const response = await fetch(location.href);
    const text = response.ok ? await response.text() : "";
    return new DOMParser().parseFromString(text, "text/html").getElementById("main");
  } catch {
    return null;
  }
}

async function refresh() {
  // What someone is selecting, to copy it, stays where it is.
  if (document.hidden || !getSelection().isCollapsed) return;
  const main = await latest();
  if (main) refreshedAt = new Date();
  // The ages on the page count from its last refresh.
  document.getElementById("stale").textContent = main ? "" :
    `Airflow does not answer, or you are logged out. This is what it showed at ${refreshedAt.toLocaleTimeString()}.`;
  const old = document.getElementById("main");
  if (!main || main.innerHTML === old.innerHTML) return;
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.replaceWith(document.adoptNode(main));
  if (focused) document.getElementById(focused)?.focus();
}
setInterval(refresh, 10000);
document.addEventListener("visibilitychange", refresh);
if (document.querySelector(".age")) setTimeout(refresh, 2500);

// A frame of Airflow's may neither open windows nor leave; a link of the page around it may.
function follow(href, target) {
  const link = outer.createElement("a");
  link.href = href;
  link.target = target;
  link.rel = "noopener noreferrer";
  outer.body.append(link);
  link.click();
  link.remove();
}

async function showPreview(button) {
  const place = document.getElementById("preview");
  const query = `${location.search}&sequentum_run=${button.dataset.run}&file=${button.dataset.file}`;
  for (let left = 60; left > 0; left--) {
    const response = await fetch(`preview${query}`);
    place.innerHTML = response.ok ? await response.text() : "<p class=problem>This file cannot be shown.</p>";
    if (!place.querySelector("[data-again]")) break;
    await new Promise(done => setTimeout(done, 2000));
  }
  place.scrollIntoView({block: "nearest"});
}

function askAndSend(button) {
  const dialog = document.getElementById("dialog");
  document.getElementById("dialog-question").textContent = button.dataset.question;
  const yes = document.getElementById("dialog-yes");
  yes.textContent = button.textContent;
  yes.onclick = () => { dialog.close(); send(button.dataset.verb); };
  document.getElementById("dialog-no").onclick = () => dialog.close();
  dialog.showModal();
}

async function send(verb) {
  const answer = document.getElementById("answer");
  const names = Object.fromEntries(location.search.slice(1).split("&").map(part => {
    const [name, value] = part.split("=");
    return [name, decodeURIComponent(value ?? "")];
  }));
  answer.textContent = "Sending …";
  try {
    const response = await fetch(verb, {
      method: "POST",
      headers: {"Content-Type": "application/json", "X-Sequentum-UI": "1"},
      body: JSON.stringify({run_id: names.run_id, task_id: names.task_id, map_index: names.map_index ?? "-1"}),
    });
    const result = await response.json();
    answer.textContent = response.ok ? result.message : `${response.status}: ${result.detail}`;
  } catch (error) {
    answer.textContent = `The API server did not answer: ${error.message}`;
  }
  await refresh();
}

document.addEventListener("click", event => {
  const target = event.target.closest("a[data-airflow], a[data-outside], button[data-verb], button[data-file]");
  if (!target) return;
  if (target.dataset.verb) askAndSend(target);
  else if (target.dataset.file) showPreview(target);
  else if (outer !== document) {
    event.preventDefault();
    if (target.dataset.airflow) follow(new URL(target.dataset.airflow, outer.baseURI).href, "_self");
    else follow(target.href, "_blank");
  }
});
