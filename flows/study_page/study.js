// The way of a person through a study: consent, one page after the other, thanks.
//
// A page is left only when its answer is stored: the server answers after it is on disk.

import { load, prefetch } from "./pictures.js";
import { ask, Refused } from "./server.js";
import { Zoom } from "./zoom.js";

const SHOWN_PICK = 300; // milliseconds that a pick is seen at least; a double click ends within
const OVERALL = "overall";
const part = (id) => document.getElementById(id);

let study; // what the server says of the study
let session; // {id, num_trials, next, answered, may_go_back}, as the server last said it
let trial; // the page that is shown, or undefined
let chosen = []; // the sides picked on this page so far, one for each question
let revision = 0; // of the answer that this page will give
let shownAt = 0;
let isBusy = false; // a pick is being stored, or a page is being fetched

const zoom = new Zoom([...document.querySelectorAll(".window")], (isOn) => {
  part("zoom").setAttribute("aria-pressed", isOn);
  part("results").classList.toggle("zoomed", isOn);
});

begin();

async function begin() {
  study = await insisted("study");
  document.title = part("title").textContent = study.title;
  const ofThisTab = kept(sessionStorage);
  const known = ofThisTab ?? kept(localStorage);
  try {
    session = known ? await insisted(`sessions/${known}`) : undefined;
  } catch {
    session = undefined; // it is no longer there: begin with consent
  }
  if (session && ofThisTab) await goOn();
  else showConsent();
}

/** The session that a tab (until it is closed) or this browser keeps for this study. */
function kept(storage) {
  try {
    return storage.getItem(study.key);
  } catch {
    return null; // storage is switched off: a reload begins anew
  }
}

function keep(id) {
  try {
    sessionStorage.setItem(study.key, id);
    localStorage.setItem(study.key, id);
  } catch {
    // as above
  }
}

function showConsent() {
  const paragraphs = study.consent.split(/\n\s*\n/).filter((text) => text.trim());
  part("consent-text").replaceChildren(...paragraphs.map((text) => element("p", text)));
  const number = study.num_trials;
  part("how-many").textContent =
    `${number} ${number === 1 ? "page" : "pages"}, each with two results: pick the better one by a click, a tap or a key.`;
  part("start").disabled = part("resume").disabled = false;
  part("resume").hidden = !session;
  part("start").classList.toggle("primary", !session);
  part("start").textContent = session ? "I agree, start as another person" : "I agree, start";
  if (session) {
    const { answered, num_trials } = session;
    const isDone = answered === num_trials;
    part("resume").textContent = isDone ? "Back to the end" : `Go on: ${answered} of ${num_trials} done`;
  }
  view("consent");
}

async function start() {
  part("start").disabled = part("resume").disabled = true; // a second click is no second person
  session = await insisted("sessions", {});
  await goOn();
}

/** Shows the first page without an answer, or thanks. */
async function goOn() {
  keep(session.session);
  if (session.next === null) showThanks();
  else await showTrial(session.next, 0);
}

function showThanks() {
  trial = undefined;
  part("change-last").hidden = !session.may_go_back;
  view("thanks");
}

async function showTrial(number, asRevision) {
  isBusy = true;
  const next = await insisted(`sessions/${session.session}/trials/${number}`);
  const names = namesOf(next);
  const images = await insistedPictures(names);
  trial = next;
  revision = asRevision;
  chosen = [];
  zoom.off();
  fill(images);
  isBusy = false;
  askQuestion();
  view("trial");
  shownAt = performance.now();
  if (number + 1 < session.num_trials) prefetchPage(number + 1);
}

function namesOf({ references, left, right }) {
  return [...references.map((one) => one.picture), left, right];
}

async function prefetchPage(number) {
  try {
    prefetch(namesOf(await ask(`sessions/${session.session}/trials/${number}`)));
  } catch {
    // it is asked for again when it is shown
  }
}

/** Puts all that a page shows into it, in one go. */
function fill(images) {
  const [right, left] = [images.pop(), images.pop()];
  left.alt = right.alt = "";
  const references = trial.references.map((one, index) => {
    images[index].alt = `${one.caption} picture`;
    const figure = element("figure");
    figure.append(images[index], element("figcaption", one.caption));
    return figure;
  });
  if (trial.prompt !== null) {
    const quote = element("figure");
    quote.className = "prompt";
    quote.append(element("blockquote", trial.prompt), element("figcaption", "Prompt"));
    references.unshift(quote);
  }
  part("references").replaceChildren(...references);
  part("references").hidden = !references.length;
  part("left").querySelector(".window").replaceChildren(left);
  part("right").querySelector(".window").replaceChildren(right);
  const ratio = Math.max(...[left, right].map((one) => one.naturalWidth / one.naturalHeight));
  part("trial").style.setProperty("--ratio", ratio);
  part("trial").style.setProperty("--num-references", references.length);
}

/** Shows which question of the page is open, and what was picked before. */
function askQuestion() {
  const isOverall = trial.questions[0] === OVERALL;
  const open = trial.questions[chosen.length];
  part("question").textContent = isOverall
    ? "Which result is better, all in all?"
    : `Which result is better in ${open}?`;
  const criteria = trial.criteria.map((name, index) => {
    const item = element("li", name);
    if (!isOverall && index < chosen.length) item.className = "done";
    if (!isOverall && index === chosen.length) item.setAttribute("aria-current", "step");
    return item;
  });
  part("criteria").replaceChildren(...criteria);
  part("progress").max = session.num_trials;
  part("progress").value = trial.number + chosen.length / trial.questions.length;
  const again = revision > 0 ? " · your last choice again" : "";
  part("progress-text").textContent = `${trial.number + 1} of ${session.num_trials}${again}`;
  part("back").disabled = !chosen.length && !(session.may_go_back && trial.number === session.next);
  for (const side of ["left", "right"]) part(side).classList.remove("picked");
}

async function pick(side) {
  if (isBusy || !trial || part("trial").hidden) return;
  isBusy = true;
  const seconds = (performance.now() - shownAt) / 1000;
  const seen = new Promise((done) => setTimeout(done, SHOWN_PICK));
  part(side).classList.add("picked");
  chosen.push(side);
  if (chosen.length < trial.questions.length) {
    await seen;
    isBusy = false;
    askQuestion();
    return;
  }
  const answers = trial.questions.map((question, index) => ({ question, choice: chosen[index] }));
  await store({ answers, revision, seconds });
  await seen;
  if (session.next === null) {
    isBusy = false;
    showThanks();
  } else {
    await showTrial(session.next, 0);
  }
}

/** Sends the answers until they are stored; answers that are stored already are no mistake. */
async function store(body) {
  const path = `sessions/${session.session}`;
  window.addEventListener("beforeunload", warnOfLoss);
  try {
    session = await insisted(`${path}/trials/${trial.number}`, body, "Your choice is not saved yet");
  } catch (error) {
    if (!(error instanceof Refused && error.status === 409)) throw error;
    session = await insisted(path); // answered in another window: go on from there
  } finally {
    window.removeEventListener("beforeunload", warnOfLoss);
  }
}

function warnOfLoss(event) {
  event.preventDefault();
}

async function back() {
  if (isBusy || part("back").disabled) return;
  if (chosen.length) {
    chosen.pop();
    askQuestion();
  } else {
    await showTrial(trial.number - 1, 1);
  }
}

/** What the server says; meanwhile the page says what is missing, and nothing is lost. */
async function insisted(path, body, trouble = "The study cannot go on") {
  const answer = await ask(path, {
    body,
    onTrouble: (wake, why) => {
      notice(`${trouble}: ${why}. Trying again; please keep this page open.`, wake);
    },
  });
  notice("");
  return answer;
}

async function insistedPictures(names) {
  for (;;) {
    try {
      const images = await load(names);
      notice("");
      return images;
    } catch {
      await new Promise((wake) => {
        notice("A picture could not be loaded. Trying again; please keep this page open.", wake);
        setTimeout(wake, 3000);
      });
    }
  }
}

function notice(text, retry) {
  part("notice").hidden = !text;
  if (part("notice-text").textContent !== text) part("notice-text").textContent = text;
  part("retry").onclick = retry ?? null;
}

function view(name) {
  const isShown = !part(name).hidden;
  for (const one of document.querySelectorAll(".view")) one.hidden = one.id !== name;
  document.body.dataset.view = name;
  if (!isShown) (name === "trial" ? part("question") : part(name)).focus({ preventScroll: true });
}

function fail(error) {
  isBusy = false;
  part("problem-text").textContent = `${error.message}. What you chose before is saved.`;
  view("problem");
}

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function anew() {
  session = trial = undefined;
  showConsent();
}

const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right" };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  if (part("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.shiftKey && event.key in MOVES) {
    event.preventDefault();
    if (zoom.isOn) zoom.nudge(...MOVES[event.key]);
    return;
  }
  if (event.repeat) {
    if (event.key !== "Tab") event.preventDefault(); // a key that is held down is one choice
    return;
  }
  if (event.key in KEYS) pick(KEYS[event.key]);
  else if (event.key === "Backspace") back();
  else if (event.key.toLowerCase() === "z") zoom.toggle();
  else if (event.key === "Escape") zoom.off();
  else return;
  event.preventDefault();
}

part("start").addEventListener("click", start);
part("resume").addEventListener("click", goOn);
part("another").addEventListener("click", anew);
part("anew").addEventListener("click", () => location.reload());
part("back").addEventListener("click", back);
part("change-last").addEventListener("click", () => showTrial(session.num_trials - 1, 1));
part("zoom").addEventListener("click", () => zoom.toggle());
for (const side of ["left", "right"])
  part(side).addEventListener("click", (event) => {
    if (event.detail === 0 || !zoom.wasGesture) pick(side); // 0: by a key
  });
window.addEventListener("keydown", onKey);
window.addEventListener("unhandledrejection", (event) => fail(event.reason));
